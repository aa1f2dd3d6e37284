package sdk

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/firn-cr/firn/sdk/internal/protocol"
	"github.com/firn-cr/firn/sdk/kern"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// Serve is the main function of a plugin: it serves p to the host that started
// this process and ends the process when the host is done or gone. It does not
// return.
//
// Log with the Log of a request, or with hclog.Default: both reach the host's
// log. What is printed on stdout and stderr arrives there line by line, at
// debug level.
func Serve(p Plugin) {
	if os.Getenv(protocol.CookieKey) != protocol.CookieValue {
		d := p.Describe()
		fmt.Fprintf(os.Stderr, "firn-plugin-%s %s: %s\nThis program is a plugin of firn, which starts it; it does nothing by itself. Try: firn plugin list\n",
			d.Name, d.Version, d.Summary)
		os.Exit(1)
	}
	if err := serve(p); err != nil {
		hclog.Default().Error("plugin cannot serve", "error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(p Plugin) error {
	log := processLog()
	go func() { _ = kern.GrowTable() }() // else: when it is full
	if err := adoptDescriptors(); err != nil {
		return err
	}
	if err := followHost(); err != nil {
		return err
	}
	srv, err := newServer(p, environment{log: log, arena: attachArena, image: receiveImage})
	if err != nil {
		return err
	}
	creds := newPeerCredentials(os.Getppid())
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: protocol.Handshake(),
		Plugins:         plugin.PluginSet{protocol.ServiceName: &grpcPlugin{server: srv}},
		GRPCServer:      func(opts []grpc.ServerOption) *grpc.Server { return newGRPCServer(creds, opts...) },
		Logger:          log,
	})
	return nil
}

// newGRPCServer returns a server without the limit of 4 MiB per message, which
// the data of tapes exceeds.
func newGRPCServer(creds credentials.TransportCredentials, opts ...grpc.ServerOption) *grpc.Server {
	opts = append(opts, grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32))
	if creds != nil {
		opts = append(opts, grpc.Creds(creds))
	}
	return grpc.NewServer(opts...)
}

// grpcPlugin registers a server with go-plugin.
type grpcPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	server *server
}

// GRPCServer implements plugin.GRPCPlugin.
func (g *grpcPlugin) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	pb.RegisterPluginServer(s, g.server)
	return nil
}

// GRPCClient implements plugin.GRPCPlugin. The host has its own.
func (g *grpcPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("a plugin is no client of itself")
}

// ListenerConfig is what [ServeListener] needs in place of what a plugin
// process inherits.
type ListenerConfig struct {
	// Log takes the plugin's log. Nil drops it.
	Log hclog.Logger
	// Image returns a descriptor of the image for a restore; the session
	// closes it. Nil: no session can be a restore.
	Image func() (*os.File, error)
}

// ServeListener serves p on a listener until ctx ends, without a process, an
// arena or a handshake of its own: records travel as messages. It is for tests
// of plugins (package sdktest) and for hosts that embed a plugin. The listener
// is closed. The peer is not checked: who can connect is the host.
func ServeListener(ctx context.Context, l net.Listener, p Plugin, cfg ListenerConfig) error {
	log := cfg.Log
	if log == nil {
		log = hclog.NewNullLogger()
	}
	srv, err := newServer(p, environment{log: log, image: cfg.Image})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	g := newGRPCServer(nil)
	pb.RegisterPluginServer(g, srv)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	err = g.Serve(l)
	_, cerr := srv.Close(context.WithoutCancel(ctx), nil)
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, cerr)
}
