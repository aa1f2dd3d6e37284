package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/internal/remote"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// environment is what a server gets from the process it lives in.
type environment struct {
	log hclog.Logger
	// arena attaches to the arena of the process; nil if it has none.
	arena func(size uint64, segmentSize uint32) (*hbuf.Producer, error)
	// image receives the descriptor of the image that is being restored.
	image func() (*os.File, error)
}

// server implements the plugin's end of the protocol for one [Plugin]. It has
// at most one session at a time.
type server struct {
	pb.UnimplementedPluginServer
	plugin   Plugin
	env      environment
	desc     Description
	describe *pb.DescribeResponse
	versions map[uint32]RecordType

	mu      sync.Mutex
	session *session
}

// newServer describes the plugin once and checks what it says.
func newServer(p Plugin, env environment) (*server, error) {
	s := &server{plugin: p, env: env, desc: p.Describe(), versions: map[uint32]RecordType{}}
	if err := s.desc.Validate(); err != nil {
		return nil, err
	}
	m, err := descriptionToWire(&s.desc)
	if err != nil {
		return nil, err
	}
	for _, ph := range phases {
		if ph.has(p) {
			m.Phases = append(m.Phases, ph.code)
		}
	}
	s.describe = m
	for _, r := range s.desc.Records {
		s.versions[r.Kind] = r
	}
	return s, nil
}

// Describe implements the protocol.
func (s *server) Describe(context.Context, *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	return s.describe, nil
}

// Open implements the protocol.
func (s *server) Open(_ context.Context, req *pb.OpenRequest) (*pb.OpenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		return nil, remote.Status(errors.New("a session is open already"))
	}
	ses, err := newSession(s, req)
	if err != nil {
		return nil, remote.Status(fmt.Errorf("open session: %w", err))
	}
	s.session = ses
	return &pb.OpenResponse{}, nil
}

// Services implements the protocol.
func (s *server) Services(stream pb.Plugin_ServicesServer) error {
	ses, err := s.current()
	if err != nil {
		return remote.Status(err)
	}
	return remote.Status(ses.services.serve(stream))
}

// Run implements the protocol. A panic of the plugin's method is an error of
// the phase.
func (s *server) Run(ctx context.Context, req *pb.RunRequest) (resp *pb.RunResponse, err error) {
	ses, err := s.current()
	if err != nil {
		return nil, remote.Status(err)
	}
	ph := findPhase(req.GetPhase())
	if ph == nil || !ph.has(s.plugin) {
		return nil, remote.Status(fmt.Errorf("phase %s: %w", req.GetPhase(), ErrUnsupported))
	}
	ctx, done, err := ses.enter(ctx, req.GetPhase())
	if err != nil {
		return nil, remote.Status(err)
	}
	defer done()
	defer func() {
		if r := recover(); r != nil {
			s.env.log.Error("panic in plugin", "phase", req.GetPhase().String(), "panic", r, "stack", string(debug.Stack()))
			resp, err = nil, remote.Status(fmt.Errorf("panic: %v", r))
		}
	}()
	resp, err = ph.run(ctx, s.plugin, ses.round(req))
	if err != nil {
		return nil, remote.Status(cause(ctx, err))
	}
	return resp, nil
}

// cause prefers the reason for which a context was canceled: "context
// canceled" tells nothing.
func cause(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// Close implements the protocol. Closing what is not open is no error.
func (s *server) Close(ctx context.Context, _ *pb.CloseRequest) (*pb.CloseResponse, error) {
	s.mu.Lock()
	ses := s.session
	s.session = nil
	s.mu.Unlock()
	if ses != nil {
		if err := ses.close(ctx); err != nil {
			return nil, remote.Status(fmt.Errorf("close session: %w", err))
		}
	}
	return &pb.CloseResponse{}, nil
}

func (s *server) current() (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return nil, fmt.Errorf("no session is open: %w", ErrAborted)
	}
	return s.session, nil
}
