package hbuf

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestBackPressure(t *testing.T) {
	sink := &memSink{gate: make(chan struct{})}
	s := open(t, Config{Sink: sink, Warm: 8 << 20, ArenaSize: 9 << 20})
	short, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
	defer cancel()
	n := 0
	var want []int
	for ; ; n++ {
		b, err := s.p.GetBulk(short, 1<<20)
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		s.must(err)
		pattern(b.Payload(), uint64(n))
		s.must(b.Commit(s.ctx, 2, 1, uint64(n)))
		want = append(want, 1<<20)
	}
	if n < 4 || n > 9 {
		t.Errorf("%d MiB were taken by a host that does not write", n)
	}
	close(sink.gate)
	s.must(s.bulk(1<<20, uint64(n)))
	s.must(s.p.Barrier(s.ctx))
	s.check(append(want, 1<<20))
}

// Small records wait too, and an expired context loses only its own record.
func TestBackPressureSmall(t *testing.T) {
	sink := &memSink{gate: make(chan struct{})}
	s := open(t, Config{Sink: sink, Warm: 1 << 20, ArenaSize: 3 << 19})
	ctx, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
	defer cancel()
	var want []int
	for {
		b, err := s.p.Get(s.ctx, 100<<10)
		s.must(err)
		pattern(b.Payload(), uint64(len(want)))
		if err = b.Commit(ctx, 1, 1, uint64(len(want))); errors.Is(err, context.DeadlineExceeded) {
			break
		}
		s.must(err)
		want = append(want, 100<<10)
	}
	close(sink.gate)
	s.must(s.emit(5, uint64(len(want))))
	s.must(s.p.Barrier(s.ctx))
	s.check(append(want, 5))
}

func TestDeferredWritesNothing(t *testing.T) {
	s := open(t, Config{Mode: Deferred, MemoryLimit: 32 << 20})
	var want []int
	for i := range uint64(10) {
		s.must(s.emit(100, 2*i))
		s.must(s.bulk(1<<20, 2*i+1))
		want = append(want, 100, 1<<20)
	}
	s.must(s.p.Flush(s.ctx))
	if n := s.sink.written(); n != 0 {
		t.Errorf("%d records were written", n)
	}
	if st := s.c.Stats(); st.Held < 10<<20 || st.Records != 20 || st.BulkBytes != 10<<20 {
		t.Errorf("%+v", st)
	}
	s.must(s.c.Drain(s.ctx))
	s.check(want)
}

func TestMemoryLimit(t *testing.T) {
	const limit = 4 << 20
	s := open(t, Config{Mode: Deferred, MemoryLimit: limit})
	var want []int
	for i := range uint64(30) {
		s.must(s.bulk(1<<20, i))
		want = append(want, 1<<20)
	}
	s.must(s.p.Flush(s.ctx))
	st := s.c.Stats()
	if st.MaxHeld > limit+MaxBulk+DefaultSegment {
		t.Errorf("up to %d bytes were held", st.MaxHeld)
	}
	if n := s.sink.written(); n < 20 {
		t.Errorf("%d records were written before the drain", n)
	}
	s.must(s.c.Drain(s.ctx))
	s.check(want)
}

// After the thaw the host drains while the plugin goes on.
func TestDrainWhileCommitting(t *testing.T) {
	s := open(t, Config{Mode: Deferred, MemoryLimit: 8 << 20, Writers: 2})
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := s.c.Drain(s.ctx); err != nil {
				done <- err
				return
			}
		}
	}()
	var want []int
	for i := range uint64(400) {
		if i == 200 {
			s.c.SetMode(WriteThrough)
		}
		if i%8 == 0 {
			s.must(s.bulk(200_000, i))
			want = append(want, 200_000)
		} else {
			s.must(s.emit(3000, i))
			want = append(want, 3000)
		}
	}
	s.must(s.p.Flush(s.ctx))
	close(stop)
	s.must(<-done)
	s.must(s.c.Drain(s.ctx))
	s.check(want)
}

func TestSetMode(t *testing.T) {
	s := open(t, Config{Mode: Deferred, MemoryLimit: 8 << 20})
	s.must(s.emit(10, 0))
	s.must(s.p.Flush(s.ctx))
	s.c.SetMode(WriteThrough)
	s.must(s.emit(10, 1))
	s.must(s.p.Barrier(s.ctx))
	s.c.SetMode(Deferred)
	s.must(s.emit(10, 2))
	s.must(s.p.Flush(s.ctx))
	if n := s.sink.written(); n != 2 {
		t.Errorf("%d records were written, want 2", n)
	}
	s.must(s.c.Drain(s.ctx))
	s.check([]int{10, 10, 10})
}

func TestBarrierWhileDeferred(t *testing.T) {
	s := open(t, Config{Mode: Deferred, MemoryLimit: 8 << 20})
	s.must(s.bulk(5000, 0))
	s.must(s.emit(10, 1))
	s.must(s.p.Barrier(s.ctx))
	if n := s.sink.written(); n != 2 {
		t.Errorf("%d records were written, want 2", n)
	}
	s.must(s.p.Barrier(s.ctx)) // nothing to do
	s.check([]int{5000, 10})
}

// What was given to a host that touched its memory before is given at once.
func TestPopulate(t *testing.T) {
	s := open(t, Config{Mode: Deferred, MemoryLimit: 40 << 20, Warm: 4 << 20})
	s.must(s.c.Populate(32 << 20))
	s.must(s.c.Populate(1 << 40))
	var held []*Buf
	for range 8 {
		b, err := s.p.GetBulk(s.ctx, MaxBulk)
		s.must(err)
		held = append(held, b)
	}
	for _, b := range held {
		b.Put()
	}
}

func TestSinkError(t *testing.T) {
	full := errors.New("disk full")
	s := open(t, Config{Sink: &memSink{err: full}})
	s.must(s.emit(10, 0))
	if err := s.p.Barrier(s.ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("barrier: %v", err)
	}
	s.ends(full)
	if err := s.c.Drain(s.ctx); !errors.Is(err, full) {
		t.Errorf("drain: %v", err)
	}
	if err := s.c.Err(); !errors.Is(err, full) {
		t.Error(err)
	}
	if _, err := s.p.Get(s.ctx, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.p.GetBulk(s.ctx, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("get bulk: %v", err)
	}
}

// Close wakes whoever waits, and buffers that are held stay usable.
func TestCloseWhileWaiting(t *testing.T) {
	t.Run("host", func(t *testing.T) { closeWhileWaiting(t, func(s *session) error { return s.c.Close() }) })
	t.Run("plugin", func(t *testing.T) { closeWhileWaiting(t, func(s *session) error { return s.p.Close() }) })
}

func closeWhileWaiting(t *testing.T, end func(*session) error) {
	s := open(t, Config{Warm: 4 << 20, ArenaSize: 5 << 20})
	held := reserveAll(s)
	failed := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := s.p.GetBulk(s.ctx, MaxBulk)
			failed <- err
		}()
	}
	time.Sleep(20 * time.Millisecond)
	s.must(end(s))
	for range 2 {
		if err := <-failed; !errors.Is(err, ErrClosed) {
			t.Errorf("get bulk: %v", err)
		}
	}
	pattern(held[0].Payload(), 1) // must not fault
	held[0].Trim(1)
	if err := held[0].Commit(s.ctx, 2, 1, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("commit: %v", err)
	}
	for _, b := range held {
		b.Put()
	}
	if err := s.p.Flush(s.ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("flush: %v", err)
	}
}

func TestServeContext(t *testing.T) {
	c, err := NewConsumer(Config{Sink: &memSink{}})
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error)
	go func() { done <- c.Serve(ctx) }()
	time.Sleep(10 * time.Millisecond)
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("Serve: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Populate(1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := c.Drain(context.Background()); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := c.Serve(context.Background()); err != nil {
		t.Error(err)
	}
	c.SetMode(Deferred)
}

func TestCancelled(t *testing.T) {
	s := open(t, Config{})
	b, err := s.p.Get(s.ctx, 1)
	s.must(err)
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := s.p.Get(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.p.GetBulk(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	pattern(b.Payload(), 0)
	s.must(b.Commit(ctx, 1, 1, 0)) // there is room: nothing to wait for
	if err := s.p.Flush(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.must(s.p.Barrier(s.ctx))
	s.check([]int{1})
}

func TestNoSink(t *testing.T) {
	if _, err := NewConsumer(Config{}); err == nil {
		t.Error("a consumer without a sink")
	}
	if _, err := NewConsumer(Config{Sink: &memSink{}, SegmentSize: 5}); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}
