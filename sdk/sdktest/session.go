package sdktest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/wire"
)

// Session is an open session of the plugin under test.
type Session struct {
	// Frozen is what the next check says.
	Frozen bool

	h        *Harness
	image    *Image
	consumer *hbuf.Consumer
	served   chan error
	cancel   context.CancelFunc
	once     sync.Once
	provided map[uint64]int
}

// Open opens a session of a checkpoint.
func (h *Harness) Open() *Session {
	h.t.Helper()
	return h.open(NewImage(h.t), wire.OpenConfig{})
}

// OpenRestore opens a session of a restore.
func (h *Harness) OpenRestore(img *Image) *Session {
	h.t.Helper()
	return h.open(img, wire.OpenConfig{Restore: true, Blocks: img.Blocks()})
}

func (h *Harness) open(img *Image, cfg wire.OpenConfig) *Session {
	h.t.Helper()
	s := &Session{h: h, image: img, served: make(chan error, 1), provided: map[uint64]int{}}
	var err error
	s.consumer, err = hbuf.NewConsumer(hbuf.Config{NoArena: true, Sink: img})
	if err != nil {
		h.t.Fatalf("sdktest: %v", err)
	}
	cfg.Options = h.Options
	h.mu.Lock()
	h.image = img
	h.images = append(h.images, img)
	h.mu.Unlock()
	ctx, cancel := h.context()
	defer cancel()
	if err := h.client.Open(ctx, cfg); err != nil {
		h.t.Fatalf("sdktest: open: %v", err)
	}
	serve, stop := context.WithCancel(context.Background())
	s.cancel = stop
	go func() {
		s.served <- h.client.ServeHost(serve, wire.HostConfig{Host: h.Host, Submit: s.consumer.Accept})
	}()
	h.t.Cleanup(s.Close)
	return s
}

// Run runs one phase.
func (s *Session) Run(p wire.Phase) (wire.Result, error) {
	ctx, cancel := s.h.context()
	defer cancel()
	return s.RunContext(ctx, p)
}

// RunContext runs one phase under a context of the caller's.
func (s *Session) RunContext(ctx context.Context, p wire.Phase) (wire.Result, error) {
	res, err := s.h.client.Run(ctx, p, wire.Round{
		Tree: s.h.Tree, Resources: s.h.Resources, Attended: s.h.Attended,
		Frozen: s.Frozen, ImageFD: s.h.ImageFD, PluginFD: s.h.PluginFD,
	})
	if err != nil {
		return res, fmt.Errorf("%s: %w", p, err)
	}
	for _, pr := range res.Provided {
		s.provided[pr.Object] = pr.FD
	}
	return res, nil
}

// Image is where the session's records go, or come from.
func (s *Session) Image() *Image { return s.image }

// FD is the descriptor that was provided for an object, or -1. It is open in
// this process until the session is closed.
func (s *Session) FD(object uint64) int {
	if fd, ok := s.provided[object]; ok {
		return fd
	}
	return -1
}

// Provided are the objects for which descriptors were provided.
func (s *Session) Provided() map[uint64]int { return s.provided }

// Close ends the session. It may be called more than once.
func (s *Session) Close() {
	s.once.Do(func() {
		ctx, cancel := s.h.context()
		defer cancel()
		if err := s.h.client.Close(ctx); err != nil {
			s.h.t.Errorf("sdktest: close session: %v", err)
		}
		select {
		case err := <-s.served:
			if err != nil {
				s.h.t.Errorf("sdktest: services: %v", err)
			}
		case <-ctx.Done():
			s.h.t.Error("sdktest: the services did not end with the session")
		}
		s.cancel()
		if err := s.consumer.Close(); err != nil && !errors.Is(err, hbuf.ErrClosed) {
			s.h.t.Errorf("sdktest: %v", err)
		}
	})
}

// Blockers returns the findings that block, as "subject: text" lines.
func Blockers(findings []sdk.Finding) []string {
	var out []string
	for _, f := range findings {
		if f.Level >= sdk.LevelFlag {
			out = append(out, f.Subject+": "+f.Text)
		}
	}
	return out
}

// testLog writes a plugin's log into that of the test, until the test ends.
type testLog struct {
	t     testing.TB
	mu    sync.Mutex
	ended bool
}

func newTestLog(t testing.TB) *testLog {
	l := &testLog{t: t}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.ended = true
	})
	return l
}

// Write implements io.Writer.
func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.t.Log(strings.TrimRight(string(b), "\n"))
	}
	return len(b), nil
}
