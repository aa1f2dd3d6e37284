package bench

import (
	"context"
	"math"
	"net"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// server streams packed segments to the host.
type server struct {
	pluginpb.UnimplementedPluginServer
	stream chan grpc.BidiStreamingServer[pluginpb.ServiceReply, pluginpb.ServiceCall]
	stop   chan struct{}
}

func (s *server) Services(stream grpc.BidiStreamingServer[pluginpb.ServiceReply, pluginpb.ServiceCall]) error {
	s.stream <- stream
	<-s.stop
	return nil
}

// serveGRPC returns a producer whose segments go through a gRPC stream and are
// answered one by one.
func serveGRPC(ctx context.Context, socket string) (*hbuf.Producer, func(), error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32))
	s := &server{stream: make(chan grpc.BidiStreamingServer[pluginpb.ServiceReply, pluginpb.ServiceCall], 1), stop: make(chan struct{})}
	pluginpb.RegisterPluginServer(srv, s)
	go func() { _ = srv.Serve(listener) }()
	var stream grpc.BidiStreamingServer[pluginpb.ServiceReply, pluginpb.ServiceCall]
	var id uint64
	p := hbuf.NewMemoryProducer(func(segment []byte) error {
		if stream == nil {
			select {
			case stream = <-s.stream:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		id++
		call := &pluginpb.ServiceCall{Id: id, Call: &pluginpb.ServiceCall_Submit{Submit: &pluginpb.Submit{Segment: segment}}}
		if err := stream.Send(call); err != nil {
			return err
		}
		_, err := stream.Recv()
		return err
	})
	return p, func() { close(s.stop); srv.Stop() }, nil
}

func overGRPC(b *testing.B, j job) {
	c, err := hbuf.NewConsumer(hbuf.Config{NoArena: true, Sink: discard{}})
	if err != nil {
		b.Fatal(err)
	}
	j.Via, j.Socket, j.Rounds = "grpc", filepath.Join(b.TempDir(), "s"), b.N
	p := start(b, j, nil)
	conn, err := grpc.NewClient("unix://"+j.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := pluginpb.NewPluginClient(conn).Services(ctx)
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			call, err := stream.Recv()
			if err != nil {
				return
			}
			if err := c.Accept(call.GetSubmit().GetSegment()); err != nil {
				return
			}
			if err := stream.Send(&pluginpb.ServiceReply{Id: call.GetId()}); err != nil {
				return
			}
		}
	}()
	b.ResetTimer()
	rounds, host := make([]round, 0, b.N), -cpu()
	for range b.N {
		rounds = append(rounds, p.round(b))
	}
	report(b, j, rounds, host+cpu())
}
