package hbuf

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostile is a plugin that writes into the arena what it likes.
type hostile struct {
	*arena
	c    *Consumer
	sink *memSink
	head uint64
}

// attack makes a consumer of a small arena and its hostile plugin.
func attack(t testing.TB, mode Mode) *hostile {
	t.Helper()
	sink := &memSink{}
	c, err := NewConsumer(Config{Sink: sink, ArenaSize: 32 * 4 * PageSize, SegmentSize: 4 * PageSize, Warm: 16 * 4 * PageSize, Mode: mode, MemoryLimit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	a, err := mapArena(c.file, c.layout)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.unmap(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	return &hostile{arena: a, c: c, sink: sink}
}

// fill puts bytes at the beginning of a segment.
func (h *hostile) fill(segment int, b []byte) { copy(h.mem[uint64(segment)*h.segment:], b) }

// submit publishes an entry.
func (h *hostile) submit(segment, length int) {
	h.submission(h.head).Store(entry(segment, length))
	h.head++
	h.word(wordSubmissions).Store(h.head)
}

// serve accepts and writes everything.
func (h *hostile) serve() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return h.c.Drain(ctx)
}

// small is a record with a payload, bulkTo one that refers to the arena.
func small(seq uint64) []byte {
	return AppendRecord(nil, Header{Kind: 1, Seq: seq}, []byte("payload"))
}

func bulkTo(seq, ref, length uint64) []byte {
	return AppendRecord(nil, Header{Flags: FlagBulk | FlagUnsummed, Kind: 2, Seq: seq, Bulk: ref, Length: length}, nil)
}

func TestHostile(t *testing.T) {
	const first = 1 // the control area is one segment of this arena
	const seg = 4 * PageSize
	for name, do := range map[string]func(h *hostile){
		"control area":         func(h *hostile) { h.submit(0, 64) },
		"not granted":          func(h *hostile) { h.submit(first+16, 64) },
		"behind the arena":     func(h *hostile) { h.submit(32, 64) },
		"index overflows":      func(h *hostile) { h.submit(math.MaxUint32, 64) },
		"length zero":          func(h *hostile) { h.submit(first, 0) },
		"length of the arena":  func(h *hostile) { h.submit(first, 40*seg) },
		"length overflows":     func(h *hostile) { h.submit(first, math.MaxUint32) },
		"length into others":   func(h *hostile) { h.submit(first+15, seg+1) },
		"not a record":         func(h *hostile) { h.submit(first, 64) },
		"half a header":        func(h *hostile) { h.fill(first, small(0)); h.submit(first, 32) },
		"half a record":        func(h *hostile) { h.fill(first, small(0)); h.submit(first, 64) },
		"rest of a segment":    func(h *hostile) { h.fill(first, small(0)); h.submit(first, 256) },
		"wrong number":         func(h *hostile) { h.fill(first, small(1)); h.submit(first, 128) },
		"checksum of payload":  func(h *hostile) { h.fill(first, small(0)); h.mem[first*seg+64]++; h.submit(first, 128) },
		"padding":              func(h *hostile) { h.fill(first, small(0)); h.mem[first*seg+127]++; h.submit(first, 128) },
		"head runs ahead":      func(h *hostile) { h.word(wordSubmissions).Store(33) },
		"head wraps":           func(h *hostile) { h.word(wordSubmissions).Store(math.MaxUint64) },
		"same segment twice":   func(h *hostile) { h.fill(first, small(0)); h.submit(first, 128); h.submit(first, 128) },
		"bulk in control area": func(h *hostile) { h.fill(first, bulkTo(0, 0, 64)); h.submit(first, 64) },
		"bulk not granted":     func(h *hostile) { h.fill(first, bulkTo(0, 17*seg, 64)); h.submit(first, 64) },
		"bulk unaligned":       func(h *hostile) { h.fill(first, bulkTo(0, 2*seg+PageSize, 64)); h.submit(first, 64) },
		"bulk behind":          func(h *hostile) { h.fill(first, bulkTo(0, 32*seg, 64)); h.submit(first, 64) },
		"bulk overflows":       func(h *hostile) { h.fill(first, bulkTo(0, math.MaxUint64-seg+1, 2*seg)); h.submit(first, 64) },
		"bulk too long":        func(h *hostile) { h.fill(first, bulkTo(0, 16*seg, seg+1)); h.submit(first, 64) },
		"bulk of its segment":  func(h *hostile) { h.fill(first, bulkTo(0, first*seg, 64)); h.submit(first, 64) },
		"bulk twice": func(h *hostile) {
			h.fill(first, append(bulkTo(0, 2*seg, 64), bulkTo(1, 2*seg, 64)...))
			h.submit(first, 128)
		},
		"bulk overlaps": func(h *hostile) {
			h.fill(first, append(bulkTo(0, 2*seg, 2*seg), bulkTo(1, 3*seg, 64)...))
			h.submit(first, 128)
		},
		"bulk in a submitted segment": func(h *hostile) {
			h.fill(first, append(bulkTo(0, 2*seg, 64), bulkTo(1, 3*seg, 64)...))
			h.fill(2, bulkTo(2, 4*seg, 64))
			h.submit(first, 128)
			h.submit(2, 64)
		},
		"bulk checksum": func(h *hostile) {
			h.fill(first, AppendRecord(nil, Header{Flags: FlagBulk, Bulk: 2 * seg, Length: 64, CRC: 1}, nil))
			h.submit(first, 64)
		},
	} {
		for _, mode := range []Mode{WriteThrough, Deferred} {
			t.Run(name+"/"+mode.String(), func(t *testing.T) {
				h := attack(t, mode)
				if h.first != first || h.segment != seg {
					t.Fatalf("%+v", h.layout)
				}
				if name == "same segment twice" || name == "bulk in a submitted segment" {
					h.c.window = 0 // what comes back is not given again
				}
				do(h)
				if err := h.serve(); !errors.Is(err, ErrProtocol) {
					t.Fatalf("error %v, want ErrProtocol", err)
				}
				if err := h.c.Serve(context.Background()); !errors.Is(err, ErrProtocol) {
					t.Errorf("Serve: %v, want ErrProtocol", err)
				}
				if err := h.c.Accept(small(0)); !errors.Is(err, ErrProtocol) {
					t.Errorf("Accept: %v, want ErrProtocol", err)
				}
				if h.word(wordState).Load() != stateClosed {
					t.Error("the plugin is not told")
				}
				if _, err := h.sink.records(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Words that only the host may write are never read back by it, and the
// plugin's own may be anything.
func TestHostileWords(t *testing.T) {
	h := attack(t, Deferred)
	rng := rand.New(rand.NewPCG(5, 6))
	at, seq := h.first, uint64(0)
	for range 200 {
		for _, w := range []uint64{
			wordCompletions, wordAccepted, wordWritten, wordHostSleeps, wordState,
			wordWanted, wordBarrier, wordPluginSleeps,
		} {
			h.word(w).Store(rng.Uint64() >> rng.IntN(64))
		}
		h.completion(uint64(rng.IntN(64))).Store(rng.Uint64())
		if h.c.table.refs[at] == pluginOwns {
			h.fill(at, small(seq))
			h.submit(at, 128)
			seq++
		}
		if at++; at == h.total {
			at = h.first
		}
		if err := h.serve(); err != nil {
			t.Fatal(err)
		}
	}
	records, err := h.sink.records()
	if err != nil || uint64(len(records)) != seq || seq == 0 {
		t.Errorf("%d records of %d: %v", len(records), seq, err)
	}
}

// A plugin that goes on writing into what it submitted harms nobody: what is
// written is what was checked.
func TestHostileWriter(t *testing.T) {
	h := attack(t, WriteThrough)
	valid := AppendRecord(nil, Header{Kind: 1}, make([]byte, 8000))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				h.mem[h.first*int(h.segment)+i%len(valid)]++
				h.mem[h.first*int(h.segment)+i%len(valid)]--
			}
		}
	})
	defer func() { close(stop); wg.Wait() }()
	for seq := uint64(0); seq < 2000; seq++ {
		h.fill(h.first, AppendRecord(nil, Header{Kind: 1, Seq: seq}, make([]byte, 8000)))
		h.submit(h.first, len(valid))
		if err := h.serve(); err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			break
		}
	}
	if _, err := h.sink.records(); err != nil {
		t.Error(err)
	}
}

// A fault in the arena ends the session, not the process.
func TestFault(t *testing.T) {
	for name, do := range map[string]func(h *hostile) uint64{
		"segment": func(h *hostile) uint64 { h.submit(h.first, 128); return uint64(h.first) },
		"bulk": func(h *hostile) uint64 {
			h.fill(h.first, bulkTo(0, 2*h.segment, 100))
			h.submit(h.first, 64)
			return 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := attack(t, WriteThrough)
			gone := do(h) * h.segment
			if err := unix.Mprotect(h.c.mem[gone:gone+h.segment], unix.PROT_NONE); err != nil {
				t.Fatal(err)
			}
			if err := h.serve(); !errors.Is(err, ErrProtocol) {
				t.Errorf("error %v, want ErrProtocol", err)
			}
		})
	}
}

// The doorbells work whatever the plugin does to their flags and counters.
func TestHostileDoorbell(t *testing.T) {
	h := attack(t, WriteThrough)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.c.Serve(ctx) }()
	full := []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for seq := range uint64(50) {
		for _, d := range []doorbell{h.c.submit, h.c.complete} {
			d.control(func(fd int) {
				_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_RDWR)
				_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_RDWR|unix.O_NONBLOCK)
				_, _ = unix.Write(fd, full)
				_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_RDWR)
			})
		}
		h.word(wordPluginSleeps).Store(1)
		h.fill(h.first, small(seq))
		h.submit(h.first, 128)
		h.c.submit.ring()
		for h.word(wordWritten).Load() != h.head {
			if ctx.Err() != nil {
				t.Fatal("the host does not answer")
			}
			time.Sleep(time.Millisecond)
		}
	}
	if err := h.c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A plugin does not trust a damaged completion ring either.
func TestHostileCompletions(t *testing.T) {
	for name, do := range map[string]func(c *Consumer){
		"head":    func(c *Consumer) { c.word(wordCompletions).Store(1 << 40) },
		"control": func(c *Consumer) { c.publish(0, 1) },
		"behind":  func(c *Consumer) { c.publish(c.total, 1) },
		"long":    func(c *Consumer) { c.publish(c.total-1, 2) },
		"huge":    func(c *Consumer) { c.publish(math.MaxUint32, math.MaxUint32) },
		"empty":   func(c *Consumer) { c.publish(c.first, 0) },
		"twice":   func(c *Consumer) { c.publish(c.first, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			h := attack(t, WriteThrough)
			do(h.c)
			f := h.c.Files()
			p, err := Attach(f[0], f[1], f[2], h.c.ArenaSize(), h.c.SegmentSize())
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("error %v, want ErrProtocol", err)
			}
			if p != nil {
				t.Error("a producer on a broken arena")
			}
		})
	}
	h := attack(t, WriteThrough)
	f := h.c.Files()
	if _, err := Attach(f[0], f[1], f[2], h.c.ArenaSize()*2, h.c.SegmentSize()); !errors.Is(err, ErrProtocol) {
		t.Errorf("arena of another size: %v", err)
	}
}
