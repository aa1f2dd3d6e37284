package sdk

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/firn-cr/firn/sdk/internal/remote"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// services is the plugin's end of the stream on which a plugin calls its host.
// It implements [Host]. Replies may come in any order.
//
// Lock order: sendMu, then mu.
type services struct {
	attached chan struct{} // closed when the host opened the stream
	gone     chan struct{} // closed when the stream or the session ended

	sendMu sync.Mutex // a stream takes one sender at a time

	mu       sync.Mutex
	stream   pb.Plugin_ServicesServer
	pending  map[uint64]chan *pb.ServiceReply
	next     uint64
	ended    bool
	progress time.Time
}

// maxTapeBatch is how many bytes of tapes go into one message. The host runs
// all tapes of a message at the same time, so it is large.
const maxTapeBatch = 32 << 20

// progressEvery is the shortest time between two reports of progress.
const progressEvery = 50 * time.Millisecond

func newServices() *services {
	return &services{
		attached: make(chan struct{}),
		gone:     make(chan struct{}),
		pending:  map[uint64]chan *pb.ServiceReply{},
	}
}

// serve takes the host's replies until the stream ends.
func (s *services) serve(stream pb.Plugin_ServicesServer) error {
	s.mu.Lock()
	if s.stream != nil || s.ended {
		s.mu.Unlock()
		return fmt.Errorf("services: the session has a stream already or is over: %w", ErrAborted)
	}
	s.stream = stream
	s.mu.Unlock()
	close(s.attached)
	go s.receive(stream)
	<-s.gone // by the end of the stream or the session; returning ends the stream
	return nil
}

// receive hands replies to the calls that wait for them.
func (s *services) receive(stream pb.Plugin_ServicesServer) {
	defer s.end()
	for {
		reply, err := stream.Recv()
		if err != nil {
			return
		}
		s.mu.Lock()
		ch := s.pending[reply.GetId()]
		delete(s.pending, reply.GetId())
		s.mu.Unlock()
		if ch != nil {
			ch <- reply
		}
	}
}

// end makes every call that waits, and every later one, fail.
func (s *services) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended = true
		close(s.gone)
	}
}

// call sends one call and waits for its reply.
func (s *services) call(ctx context.Context, call *pb.ServiceCall) (*pb.ServiceReply, error) {
	select {
	case <-s.attached:
	case <-s.gone:
		return nil, ErrAborted
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the host's services: %w", ctx.Err())
	}
	ch := make(chan *pb.ServiceReply, 1)
	s.mu.Lock()
	s.next++
	call.Id = s.next
	s.pending[call.Id] = ch
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pending, call.Id)
		s.mu.Unlock()
	}()
	if err := s.send(call); err != nil {
		return nil, err
	}
	select {
	case reply := <-ch:
		return reply, remote.Decode(reply.GetError())
	case <-s.gone:
		return nil, ErrAborted
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *services) send(call *pb.ServiceCall) error {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if err := s.stream.Send(call); err != nil {
		return fmt.Errorf("call the host: %w: %w", ErrAborted, err)
	}
	return nil
}

// RunTapes implements [Host].
func (s *services) RunTapes(ctx context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	out := make([]tape.Outcome, 0, len(runs))
	for len(runs) > 0 {
		batch, n := tapeBatch(runs)
		reply, err := s.call(ctx, &pb.ServiceCall{Call: &pb.ServiceCall_RunTapes{RunTapes: batch}})
		if err != nil {
			return nil, fmt.Errorf("run %d tapes: %w", n, err)
		}
		outcomes := reply.GetOutcomes().GetOutcomes()
		if len(outcomes) != n {
			return nil, fmt.Errorf("run %d tapes: %d outcomes: %w", n, len(outcomes), ErrCorrupt)
		}
		for _, o := range outcomes {
			out = append(out, outcomeFromWire(o))
		}
		runs = runs[n:]
	}
	return out, nil
}

// tapeBatch takes as many runs as one message should hold, at least one.
func tapeBatch(runs []tape.Run) (*pb.RunTapes, int) {
	m, size := &pb.RunTapes{}, 0
	for i := range runs {
		r := &pb.TapeRun{Tid: int32(runs[i].TID)}
		if r.Same = i > 0 && runs[i].Tape != nil && runs[i].Tape == runs[i-1].Tape; !r.Same {
			r = tapeToWire(&runs[i])
		}
		size += len(r.Calls) + len(r.Data)
		if i > 0 && size > maxTapeBatch {
			break
		}
		m.Runs = append(m.Runs, r)
	}
	return m, len(m.Runs)
}

// Trace implements [Host].
func (s *services) Trace(ctx context.Context, tids []int) ([]TraceInfo, error) {
	m := &pb.Trace{}
	for _, tid := range tids {
		m.Tids = append(m.Tids, int32(tid))
	}
	reply, err := s.call(ctx, &pb.ServiceCall{Call: &pb.ServiceCall_Trace{Trace: m}})
	if err != nil {
		return nil, fmt.Errorf("trace %d threads: %w", len(tids), err)
	}
	infos := reply.GetTraces().GetInfos()
	if len(infos) != len(tids) {
		return nil, fmt.Errorf("trace %d threads: %d answers: %w", len(tids), len(infos), ErrCorrupt)
	}
	out := make([]TraceInfo, 0, len(infos))
	for _, i := range infos {
		info, err := traceFromWire(i, reply.GetTraces().GetPrograms())
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

// Snapshot implements [Host].
func (s *services) Snapshot(ctx context.Context, pids []int) ([]Snapshot, error) {
	m := &pb.Snapshot{}
	for _, pid := range pids {
		m.Pids = append(m.Pids, int32(pid))
	}
	reply, err := s.call(ctx, &pb.ServiceCall{Call: &pb.ServiceCall_Snapshot{Snapshot: m}})
	if err != nil {
		return nil, fmt.Errorf("copy %d processes: %w", len(pids), err)
	}
	copies := reply.GetCopies().GetCopies()
	if len(copies) != len(pids) {
		return nil, fmt.Errorf("copy %d processes: %d answers: %w", len(pids), len(copies), ErrCorrupt)
	}
	out := make([]Snapshot, 0, len(copies))
	for _, c := range copies {
		out = append(out, Snapshot{PID: int(c.GetPid()), Err: remote.Decode(c.GetError())})
	}
	return out, nil
}

// Progress implements [Host]. Reports that come too fast are dropped, but
// never the last one.
func (s *services) Progress(done, total int64) {
	select {
	case <-s.attached:
	default:
		return
	}
	now := time.Now()
	s.mu.Lock()
	drop := s.ended || (done < total && now.Sub(s.progress) < progressEvery)
	if !drop {
		s.progress = now
	}
	s.mu.Unlock()
	if drop {
		return
	}
	// A report that is lost changes nothing: the next call tells the error.
	_ = s.send(&pb.ServiceCall{Call: &pb.ServiceCall_Progress{Progress: &pb.Progress{Done: done, Total: total}}})
}

// submit hands a packed segment over in a message and waits until the host
// accepted it.
func (s *services) submit(ctx context.Context, segment []byte) error {
	_, err := s.call(ctx, &pb.ServiceCall{Call: &pb.ServiceCall_Submit{Submit: &pb.Submit{Segment: segment}}})
	return err
}
