package hbuf

import (
	"context"
	"errors"
	"testing"
	"time"
	"unsafe"
)

// inline is a session whose segments travel as bytes.
func inline(t *testing.T, cfg Config) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	s := &session{T: t, ctx: ctx, sink: &memSink{}}
	cfg.Sink, cfg.NoArena = s.sink, true
	var err error
	if s.c, err = NewConsumer(cfg); err != nil {
		t.Fatal(err)
	}
	if s.c.Files() != nil || s.c.ArenaSize() != 0 || s.c.SegmentSize() != 0 {
		t.Error("a consumer without an arena has one")
	}
	if err := s.c.Populate(1 << 20); err != nil {
		t.Error(err)
	}
	s.p = NewMemoryProducer(s.c.Accept)
	t.Cleanup(func() {
		if err := errors.Join(s.p.Close(), s.c.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestMemoryProducer(t *testing.T) {
	for _, mode := range []Mode{WriteThrough, Deferred} {
		t.Run(mode.String(), func(t *testing.T) {
			s := inline(t, Config{Mode: mode, MemoryLimit: 64 << 20})
			sizes := []int{0, 100, 5000, 1, MaxBulk, 300_000, 7, MaxRecord, 64, 128}
			bulk := []bool{2: true, 3: true, 4: true, 5: true, 8: true, 9: false}
			for i, n := range sizes {
				emit := s.emit
				if bulk[i] {
					emit = s.bulk
				}
				s.must(emit(n, uint64(i)))
			}
			s.must(s.p.Flush(s.ctx))
			s.must(s.p.Barrier(s.ctx))
			if mode == Deferred && s.sink.written() != 0 {
				t.Error("records were written")
			}
			s.must(s.c.Drain(s.ctx))
			records, err := s.sink.records()
			s.must(err)
			for i, r := range records {
				if int(r.Length) != sizes[i] || r.IsBulk() != bulk[i] {
					t.Errorf("record %d: %+v", i, r.Header)
				}
			}
			if len(records) != len(sizes) {
				t.Errorf("%d records, want %d", len(records), len(sizes))
			}
		})
	}
}

func TestMemoryProducerStates(t *testing.T) {
	s := inline(t, Config{})
	b, err := s.p.GetBulk(s.ctx, 10_000)
	s.must(err)
	if uintptr(unsafe.Pointer(&b.Payload()[0]))%PageSize != 0 {
		t.Error("bulk memory is not page aligned")
	}
	b.Trim(10)
	b.Put()
	s.must(s.emit(10, 0))
	s.must(s.p.Close())
	if err := s.emit(10, 1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if n := s.sink.written(); n != 1 {
		t.Errorf("Close left %d records", n)
	}
}

func TestSubmitError(t *testing.T) {
	broken := errors.New("connection is gone")
	p := NewMemoryProducer(func([]byte) error { return broken })
	ctx := context.Background()
	b, err := p.Get(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(ctx, 1, 1, 1); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(ctx); !errors.Is(err, broken) {
		t.Error(err)
	}
	if b, err = p.Get(ctx, 1); err == nil {
		err = b.Commit(ctx, 1, 1, 1)
	}
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

// Serve of a consumer without an arena waits for the context or Close.
func TestServeWithoutArena(t *testing.T) {
	c, err := NewConsumer(Config{NoArena: true, Sink: &memSink{}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- c.Serve(context.Background()) }()
	time.Sleep(10 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Serve does not return")
	}
}
