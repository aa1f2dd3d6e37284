package bench

import (
	"context"
	"testing"

	"github.com/firn-cr/firn/sdk/hbuf"
)

// unread takes bulk payloads without reading a byte: what is left is the price
// of the hand-over itself. (Records are checked as always.)
type unread struct{ discard }

func (unread) WriteBulkSum([]byte) (uint64, uint32, error) { return 0, 0, nil }

// discard takes what it is given and does nothing with it, after the host has
// checked and computed every checksum.
type discard struct{}

func (discard) WriteRecords([]byte, int) error { return nil }

func (discard) WriteBulk([]byte) (uint64, error) { return 0, nil }

// copier copies everything into 16 MiB of memory, as write(2) to a file in the
// page cache does.
type copier struct {
	window []byte
	at     int
}

func (c *copier) take(b []byte) {
	if c.at+len(b) > len(c.window) {
		c.at = 0
	}
	c.at += copy(c.window[c.at:], b)
}

func (c *copier) WriteRecords(packed []byte, _ int) error { c.take(packed); return nil }

func (c *copier) WriteBulk(data []byte) (uint64, error) { c.take(data); return 0, nil }

// sinks are made anew for every benchmark.
var sinks = []struct {
	name string
	make func() hbuf.Sink
}{
	{"unread", func() hbuf.Sink { return unread{} }},
	{"discard", func() hbuf.Sink { return discard{} }},
	{"copy", func() hbuf.Sink { c := &copier{window: make([]byte, 16<<20)}; clear(c.window); return c }},
}

// loads are what is carried: 128-byte records, and bulk payloads.
var loads = []struct {
	name string
	job  job
}{
	{"records128", job{Size: 128, Count: 1 << 20}},
	{"bulk1MiB", job{Bulk: true, Size: 1 << 20, Count: 256}},
	{"bulk4MiB", job{Bulk: true, Size: 4 << 20, Count: 64}},
}

// BenchmarkArena measures from the first reservation until the host has
// written (write-through) or holds references to (deferred) everything.
func BenchmarkArena(b *testing.B) {
	for _, load := range loads {
		for _, sink := range sinks {
			b.Run(load.name+"/through/"+sink.name, func(b *testing.B) {
				j := load.job
				j.Written = true
				arena(b, j, hbuf.Config{Sink: sink.make()})
			})
		}
		b.Run(load.name+"/deferred", func(b *testing.B) {
			j := load.job
			j.Keep = true
			arena(b, j, hbuf.Config{Sink: discard{}, Mode: hbuf.Deferred, MemoryLimit: 512 << 20})
		})
	}
}

func arena(b *testing.B, j job, cfg hbuf.Config) {
	c, err := hbuf.NewConsumer(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := c.Populate(max(hbuf.DefaultWarm, cfg.MemoryLimit)); err != nil {
		b.Fatal(err)
	}
	go func() { _ = c.Serve(ctx) }() // an error shows in the child
	j.Via, j.Arena, j.Segment, j.Rounds = "arena", c.ArenaSize(), c.SegmentSize(), b.N
	p := start(b, j, c.Files())
	b.ResetTimer()
	rounds, host := make([]round, 0, b.N), -cpu()
	for range b.N {
		rounds = append(rounds, p.round(b))
		if err := c.Drain(ctx); err != nil {
			b.Fatal(err)
		}
	}
	report(b, j, rounds, host+cpu())
	if err := c.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkGRPC sends the same records through the stream that plugins without
// an arena use, over a unix socket.
func BenchmarkGRPC(b *testing.B) {
	for _, load := range loads {
		b.Run(load.name, func(b *testing.B) { overGRPC(b, load.job) })
	}
}
