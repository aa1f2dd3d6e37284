package image

import (
	"bytes"
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/firn-cr/firn/sdk/hbuf"
)

// TestRecordsOfAPlugin goes the whole way of a record: producer, arena,
// consumer, stream, image.
func TestRecordsOfAPlugin(t *testing.T) {
	t.Parallel()
	for _, mode := range []hbuf.Mode{hbuf.WriteThrough, hbuf.Deferred} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "x.firn")
			w, err := Create(path, testManifest())
			if err != nil {
				t.Fatal(err)
			}
			emitThroughArena(t, w.Stream("mm"), mode)
			if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
				t.Fatal(err)
			}
			i, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			if err := i.Verify(context.Background()); err != nil {
				t.Fatal(err)
			}
			checkEmitted(t, i)
		})
	}
}

const emitters, emitted = 4, 100

// sizeOf is the size of payload n: every third one is bulk.
func sizeOf(n int) int {
	if n%3 == 0 {
		return 2000 + n*3000
	}
	return n * 5
}

func emitThroughArena(t *testing.T, s *Stream, mode hbuf.Mode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := hbuf.NewConsumer(hbuf.Config{Sink: s, Mode: mode, MemoryLimit: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	f := c.Files()
	p, err := hbuf.Attach(f[0], f[1], f[2], c.ArenaSize(), c.SegmentSize())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- c.Serve(ctx) }()
	var wg sync.WaitGroup
	for g := range emitters {
		wg.Go(func() {
			for n := range emitted {
				get := p.Get
				if n%3 == 0 {
					get = p.GetBulk
				}
				b, err := get(ctx, sizeOf(n))
				if err == nil {
					copy(b.Payload(), pattern(sizeOf(n), uint64(g*emitted+n)))
					err = b.Commit(ctx, uint32(g+1), 1, uint64(n))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, step := range []func() error{
		func() error { return p.Flush(ctx) }, func() error { return c.Drain(ctx) }, p.Close, c.Close,
		func() error { return <-served },
	} {
		if err := step(); err != nil {
			t.Error(err)
		}
	}
}

func checkEmitted(t *testing.T, i *Image) {
	t.Helper()
	var next [emitters]int
	for r, err := range i.Records("mm") {
		if err != nil {
			t.Fatal(err)
		}
		g, n := int(r.Kind)-1, int(r.Object)
		if n != next[g] {
			t.Fatalf("goroutine %d: record %d, want %d", g, n, next[g])
		}
		next[g]++
		data := r.Payload
		if r.Bulk {
			data = make([]byte, r.BulkLen)
			if err := i.ReadBulk(r, data, 0); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(data, pattern(sizeOf(n), uint64(g*emitted+n))) {
			t.Errorf("goroutine %d: payload of record %d differs", g, n)
		}
	}
	if next != [emitters]int{emitted, emitted, emitted, emitted} {
		t.Errorf("records by goroutine: %d", next)
	}
}
