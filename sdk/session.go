package sdk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/hbuf"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// abortGrace is how long an abort, or the end of a session, waits for phases
// that still run after their context was canceled.
const abortGrace = time.Second

// session is one checkpoint, restore or check of a plugin. It owns the
// producer, the image's descriptor and the descriptors that were provided.
type session struct {
	server   *server
	options  map[string]string
	services *services
	producer *hbuf.Producer
	deferred bool     // the host keeps records until after the thaw
	image    *os.File // nil unless it is a restore
	records  *imageRecords
	log      hclog.Logger
	// base is the context of the session, which is longer than any call: it
	// ends with cancel.
	base   context.Context
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	phases   int            // running, abort not counted
	idle     chan struct{}  // closed when phases becomes 0; nil if it is
	provided map[uint64]int // descriptors by object
	owners   map[int]uint64 // objects by descriptor
	held     map[int]bool   // descriptors that a Holder has handed over
}

func newSession(s *server, req *pb.OpenRequest) (_ *session, err error) {
	ses := &session{
		server: s, options: req.GetOptions(), services: newServices(),
		log: s.env.log, provided: map[uint64]int{}, owners: map[int]uint64{}, held: map[int]bool{},
	}
	if level := hclog.Level(req.GetLogLevel()); level != hclog.NoLevel {
		ses.log.SetLevel(level)
	}
	ses.base, ses.cancel = context.WithCancelCause(context.Background())
	defer func() {
		if err != nil {
			ses.cancel(ErrAborted)
		}
	}()
	if a := req.GetArena(); a.GetSize() != 0 {
		if s.env.arena == nil {
			return nil, errors.New("the process has no arena")
		}
		if ses.producer, err = s.env.arena(a.GetSize(), a.GetSegmentSize()); err != nil {
			return nil, fmt.Errorf("attach arena: %w", err)
		}
		ses.deferred = a.GetDeferred()
	} else {
		ses.producer = hbuf.NewMemoryProducer(func(b []byte) error { return ses.services.submit(ses.base, b) })
	}
	if view := req.GetImage(); view != nil {
		if s.env.image == nil {
			return nil, errors.Join(errors.New("the process cannot receive an image"), ses.producer.Close())
		}
		if ses.image, err = s.env.image(); err != nil {
			return nil, errors.Join(fmt.Errorf("receive image: %w", err), ses.producer.Close())
		}
		ses.records = newImageRecords(ses.image, view.GetBlocks())
	}
	return ses, nil
}

// enter starts a phase. Its context ends with the call and with the session.
// An abort first ends all other phases.
func (ses *session) enter(ctx context.Context, code pb.Phase) (context.Context, func(), error) {
	if code == pb.Phase_PHASE_ABORT {
		ses.cancel(ErrAborted)
		ses.settle(ctx)
		return ctx, func() {}, nil
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.base.Err() != nil {
		return nil, nil, context.Cause(ses.base)
	}
	if ses.phases++; ses.phases == 1 {
		ses.idle = make(chan struct{})
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ses.base, func() { cancel(context.Cause(ses.base)) })
	return ctx, func() {
		stop()
		cancel(nil)
		ses.mu.Lock()
		defer ses.mu.Unlock()
		if ses.phases--; ses.phases == 0 {
			close(ses.idle)
			ses.idle = nil
		}
	}, nil
}

// settle waits a while for the phases that run.
func (ses *session) settle(ctx context.Context) {
	ses.mu.Lock()
	idle := ses.idle
	ses.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	case <-time.After(abortGrace):
		ses.log.Warn("a phase does not end although its context did")
	}
}

// provide remembers a descriptor of an object; the session closes it.
func (ses *session) provide(object uint64, fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
		return fmt.Errorf("provide object %d: descriptor %d: %w", object, fd, err)
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.base.Err() != nil {
		return context.Cause(ses.base)
	}
	if other, ok := ses.owners[fd]; ok {
		return fmt.Errorf("provide object %d: descriptor %d is that of object %d: duplicate it", object, fd, other)
	}
	if old, ok := ses.provided[object]; ok {
		return fmt.Errorf("provide object %d: descriptor %d: it is provided already as %d", object, fd, old)
	}
	ses.provided[object], ses.owners[fd] = fd, object
	return nil
}

// keepHeld takes descriptors over until dropHeld.
func (ses *session) keepHeld(list []HeldFile) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	for _, h := range list {
		ses.held[h.FD] = true
	}
}

// dropHeld closes the descriptors that were taken over.
func (ses *session) dropHeld() {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	for fd := range ses.held {
		unix.Close(fd)
	}
	clear(ses.held)
}

// close ends the session and releases everything. It is called once.
func (ses *session) close(ctx context.Context) error {
	defer ses.dropHeld()
	ses.cancel(ErrAborted)
	ses.settle(ctx)
	ses.services.end()
	err := ses.producer.Close()
	if errors.Is(err, hbuf.ErrClosed) || errors.Is(err, ErrAborted) {
		err = nil // the host ended the session first; nobody waits for the rest
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	for object, fd := range ses.provided {
		err = errors.Join(err, unix.Close(fd))
		delete(ses.provided, object)
	}
	if ses.image != nil {
		err = errors.Join(err, ses.image.Close())
	}
	return err
}
