package hbuf

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"
)

// configs are the ways in which a session can be run.
func configs() map[string]Config {
	return map[string]Config{
		"through":        {},
		"deferred":       {Mode: Deferred, MemoryLimit: 64 << 20},
		"deferred small": {Mode: Deferred, MemoryLimit: 1 << 20, Warm: 5 << 20},
		"tight":          {ArenaSize: 6 << 20, Warm: 5 << 20},
		"writers":        {Writers: 4},
		"small segments": {SegmentSize: PageSize, Warm: 6 << 20},
		"large segments": {SegmentSize: MaxBulk, Warm: 48 << 20},
	}
}

func TestMixed(t *testing.T) {
	for name, cfg := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, cfg)
			rng := rand.New(rand.NewPCG(3, 4))
			var want []int
			for i := range 600 {
				n := rng.IntN(300)
				switch {
				case i%40 == 0:
					n = 1 + rng.IntN(MaxBulk)
				case i%7 == 0:
					n = 1 + rng.IntN(20000)
				case i%93 == 0:
					n = rng.IntN(MaxRecord + 1)
				}
				want = append(want, n)
				if i%40 == 0 || i%7 == 0 {
					s.must(s.bulk(n, uint64(i)))
				} else {
					s.must(s.emit(n, uint64(i)))
				}
			}
			s.must(s.p.Flush(s.ctx))
			s.must(s.c.Drain(s.ctx))
			s.check(want)
		})
	}
}

func TestLimits(t *testing.T) {
	s := open(t, Config{Mode: Deferred})
	s.must(s.emit(0, 0))
	s.must(s.emit(MaxRecord, 1))
	s.must(s.bulk(MaxBulk, 2))
	s.must(s.bulk(1, 3))
	if _, err := s.p.Get(s.ctx, MaxRecord+1); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := s.p.Get(s.ctx, -1); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := s.p.GetBulk(s.ctx, MaxBulk+1); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := s.p.GetBulk(s.ctx, 0); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	s.must(s.p.Barrier(s.ctx))
	s.check([]int{0, MaxRecord, MaxBulk, 1})
}

// An arena that is smaller than the largest record says so.
func TestSmallArena(t *testing.T) {
	s := open(t, Config{ArenaSize: 64 << 10, SegmentSize: PageSize, Warm: 64 << 10})
	if _, err := s.p.GetBulk(s.ctx, 1<<20); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := s.emit(1<<20, 0); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	s.must(s.emit(10<<10, 0))
	s.must(s.p.Barrier(s.ctx))
	s.check([]int{10 << 10})
}

func TestBufStates(t *testing.T) {
	s := open(t, Config{})
	b, err := s.p.Get(s.ctx, 100)
	s.must(err)
	b.Trim(200) // more than there is: nothing
	b.Trim(-1)
	b.Trim(10)
	if len(b.Payload()) != 10 || cap(b.Payload()) != 10 {
		t.Errorf("%d of %d bytes", len(b.Payload()), cap(b.Payload()))
	}
	pattern(b.Payload(), 0)
	s.must(b.Commit(s.ctx, 1, 1, 0))
	b.Put() // nothing
	b.Trim(1)
	if err := b.Commit(s.ctx, 1, 1, 0); !errors.Is(err, ErrState) {
		t.Error(err)
	}
	big, err := s.p.GetBulk(s.ctx, MaxBulk)
	s.must(err)
	big.Trim(5000)
	pattern(big.Payload(), 1)
	s.must(big.Commit(s.ctx, 2, 1, 1))
	big.Put()
	empty, err := s.p.GetBulk(s.ctx, MaxBulk)
	s.must(err)
	empty.Trim(0)
	if err := empty.Commit(s.ctx, 2, 1, 2); !errors.Is(err, ErrState) {
		t.Error(err)
	}
	dropped, err := s.p.GetBulk(s.ctx, 1)
	s.must(err)
	dropped.Put()
	dropped.Put()
	s.must(s.p.Barrier(s.ctx))
	s.check([]int{10, 5000})
	if n := s.c.Stats().PluginSegments; n != s.c.warm {
		t.Errorf("the plugin owns %d segments, want %d", n, s.c.warm)
	}
	l, _ := s.p.c.(*link)
	l.reap()
	if l.free.count+s.p.open.n != s.c.warm {
		t.Errorf("%d segments are free in the plugin, want %d", l.free.count, s.c.warm)
	}
}

// A buffer can be reserved while others are being filled; the records come in
// the order in which they are committed.
func TestNested(t *testing.T) {
	s := open(t, Config{})
	outer, err := s.p.Get(s.ctx, 50)
	s.must(err)
	page, err := s.p.GetBulk(s.ctx, 8192)
	s.must(err)
	inner, err := s.p.Get(s.ctx, 60)
	s.must(err)
	pattern(outer.Payload(), 2)
	pattern(page.Payload(), 1)
	pattern(inner.Payload(), 0)
	s.must(inner.Commit(s.ctx, 1, 1, 0))
	s.must(page.Commit(s.ctx, 2, 1, 1))
	s.must(outer.Commit(s.ctx, 1, 1, 2))
	s.must(s.p.Barrier(s.ctx))
	s.check([]int{60, 8192, 50})
}

// Whoever holds more than the warm memory gets cold memory, up to the arena.
func TestNestedBeyondWarm(t *testing.T) {
	for _, mode := range []Mode{WriteThrough, Deferred} {
		s := open(t, Config{ArenaSize: 40 << 20, Warm: 4 << 20, Mode: mode})
		var held []*Buf
		for range 8 {
			b, err := s.p.GetBulk(s.ctx, MaxBulk)
			s.must(err)
			held = append(held, b)
		}
		var want []int
		for i, b := range held {
			pattern(b.Payload(), uint64(i))
			s.must(b.Commit(s.ctx, 2, 1, uint64(i)))
			want = append(want, MaxBulk)
		}
		s.must(s.p.Barrier(s.ctx))
		s.check(want)
		for _, b := range reserveAll(s) {
			b.Put()
		}
		s.must(s.bulk(MaxBulk, 8))
		s.must(s.p.Barrier(s.ctx))
		s.check(append(want, MaxBulk))
	}
}

// reserveAll reserves until there is no more.
func reserveAll(s *session) (held []*Buf) {
	for {
		ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
		b, err := s.p.GetBulk(ctx, MaxBulk)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return held
		}
		s.must(err)
		held = append(held, b)
	}
}

// Many small runs that the host keeps must not keep a large one away for ever.
func TestFragmented(t *testing.T) {
	s := open(t, Config{ArenaSize: 16 << 20, Warm: 6 << 20, Mode: Deferred, MemoryLimit: 9 << 20})
	var want []int
	for i := uint64(0); i < 300; i++ {
		n := 1 + int(i*7919%(1<<20))
		if i%20 == 19 {
			n = MaxBulk
		}
		want = append(want, n)
		s.must(s.bulk(n, i))
	}
	s.must(s.p.Flush(s.ctx))
	s.must(s.c.Drain(s.ctx))
	s.check(want)
}

// Eight goroutines commit at once: no gap, no reordering, and each goroutine's
// records in its own order.
func TestConcurrent(t *testing.T) {
	for name, cfg := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, cfg)
			const routines, each = 8, 120
			var wg sync.WaitGroup
			for g := range uint64(routines) {
				wg.Go(func() {
					for i := range uint64(each) {
						var err error
						if object := g<<32 | i; i%16 == 0 {
							err = s.bulk(100000, object)
						} else {
							err = s.emit(int(i), object)
						}
						if err != nil {
							t.Error(err)
							return
						}
						runtime.Gosched()
					}
					if err := s.p.Flush(s.ctx); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			s.must(s.c.Drain(s.ctx))
			records, err := s.sink.records()
			s.must(err)
			var next [routines]uint64
			for _, r := range records {
				g, i := r.Object>>32, r.Object&0xffffffff
				if next[g] != i {
					t.Fatalf("goroutine %d: record %d, want %d", g, i, next[g])
				}
				next[g]++
			}
			if len(records) != routines*each {
				t.Errorf("%d records, want %d", len(records), routines*each)
			}
		})
	}
}
