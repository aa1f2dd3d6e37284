package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/internal/remote"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// maxCalls bounds how many calls of one plugin run at the same time.
const maxCalls = 64

// HostConfig is what a plugin can reach in its host.
type HostConfig struct {
	// Host runs the plugin's tapes. Its methods are called concurrently.
	Host sdk.Host
	// Submit takes a packed segment that came by message. Calls come one at a
	// time, in order. Nil refuses them.
	Submit func(segment []byte) error
	// Written returns when everything that was submitted is written. Nil
	// means that it is when Submit returns.
	Written func(ctx context.Context) error
}

// ServeHost opens the stream of services and answers the plugin's calls until
// the session is closed (nil), ctx ends or the plugin breaks the protocol.
func (c *Client) ServeHost(ctx context.Context, cfg HostConfig) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.plugin.Services(ctx)
	if err != nil {
		return remote.FromStatus(err)
	}
	l := &hostLoop{cfg: cfg, stream: stream, slots: make(chan struct{}, maxCalls)}
	defer l.running.Wait()
	defer cancel()
	for {
		call, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case status.Code(err) == codes.Unavailable:
			return fmt.Errorf("connection to the plugin ended: %w", sdk.ErrAborted)
		case err != nil:
			if err = remote.FromStatus(err); errors.Is(err, sdk.ErrAborted) {
				return nil // closed before the stream was there
			}
			return err
		}
		l.dispatch(ctx, call)
	}
}

// hostLoop answers the calls of one plugin.
type hostLoop struct {
	cfg     HostConfig
	stream  pb.Plugin_ServicesClient
	slots   chan struct{}
	running sync.WaitGroup
	sendMu  sync.Mutex
}

// dispatch runs what may take long in a goroutine of its own. Submissions run
// here, which keeps their order.
func (l *hostLoop) dispatch(ctx context.Context, call *pb.ServiceCall) {
	switch c := call.GetCall().(type) {
	case *pb.ServiceCall_Progress:
		l.cfg.Host.Progress(c.Progress.GetDone(), c.Progress.GetTotal())
	case *pb.ServiceCall_Submit:
		l.reply(call.GetId(), &pb.ServiceReply{}, l.submit(c.Submit.GetSegment()))
	case *pb.ServiceCall_RunTapes:
		l.start(call.GetId(), func() (*pb.ServiceReply, error) { return l.runTapes(ctx, c.RunTapes) })
	case *pb.ServiceCall_Trace:
		l.start(call.GetId(), func() (*pb.ServiceReply, error) { return l.trace(ctx, c.Trace) })
	case *pb.ServiceCall_Snapshot:
		l.start(call.GetId(), func() (*pb.ServiceReply, error) { return l.snapshot(ctx, c.Snapshot) })
	case *pb.ServiceCall_Flush:
		l.start(call.GetId(), func() (*pb.ServiceReply, error) { return l.flush(ctx, c.Flush.GetWritten()) })
	default:
		l.reply(call.GetId(), &pb.ServiceReply{}, fmt.Errorf("unknown service: %w", sdk.ErrVersion))
	}
}

func (l *hostLoop) start(id uint64, f func() (*pb.ServiceReply, error)) {
	l.slots <- struct{}{}
	l.running.Add(1)
	go func() {
		defer l.running.Done()
		defer func() { <-l.slots }()
		reply, err := f()
		l.reply(id, reply, err)
	}()
}

// reply answers a call. An error of the stream shows in the next Recv.
func (l *hostLoop) reply(id uint64, m *pb.ServiceReply, err error) {
	if id == 0 {
		return
	}
	if m == nil {
		m = &pb.ServiceReply{}
	}
	m.Id, m.Error = id, remote.Encode(err)
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	_ = l.stream.Send(m)
}

func (l *hostLoop) submit(segment []byte) error {
	if l.cfg.Submit == nil {
		return fmt.Errorf("submit records: the session takes none: %w", sdk.ErrUnsupported)
	}
	return l.cfg.Submit(segment)
}

func (l *hostLoop) flush(ctx context.Context, written bool) (*pb.ServiceReply, error) {
	if !written || l.cfg.Written == nil {
		return nil, nil
	}
	return nil, l.cfg.Written(ctx)
}

func (l *hostLoop) runTapes(ctx context.Context, m *pb.RunTapes) (*pb.ServiceReply, error) {
	runs, err := tapesFromWire(m)
	if err != nil {
		return nil, err
	}
	outcomes, err := l.cfg.Host.RunTapes(ctx, runs)
	if err != nil {
		return nil, err
	}
	return &pb.ServiceReply{Outcomes: outcomesToWire(outcomes)}, nil
}

func (l *hostLoop) trace(ctx context.Context, m *pb.Trace) (*pb.ServiceReply, error) {
	tids := make([]int, 0, len(m.GetTids()))
	for _, tid := range m.GetTids() {
		tids = append(tids, int(tid))
	}
	infos, err := l.cfg.Host.Trace(ctx, tids)
	if err != nil {
		return nil, err
	}
	return &pb.ServiceReply{Traces: tracesToWire(infos)}, nil
}

func (l *hostLoop) snapshot(ctx context.Context, m *pb.Snapshot) (*pb.ServiceReply, error) {
	pids := make([]int, 0, len(m.GetPids()))
	for _, pid := range m.GetPids() {
		pids = append(pids, int(pid))
	}
	copies, err := l.cfg.Host.Snapshot(ctx, pids)
	if err != nil {
		return nil, err
	}
	out := &pb.Copies{}
	for _, c := range copies {
		out.Copies = append(out.Copies, &pb.Copy{Pid: int32(c.PID), Error: remote.Encode(c.Err)})
	}
	return &pb.ServiceReply{Copies: out}, nil
}
