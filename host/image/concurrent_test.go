package image

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

// feedAll fills several streams at the same time, each from one goroutine as
// package hbuf does, and some that are not in the manifest.
func feedAll(t *testing.T, w *Writer) map[string]*feeder {
	t.Helper()
	feeders := map[string]*feeder{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			name := fmt.Sprintf("p%d", n)
			f := newFeeder(w.Stream(name))
			mu.Lock()
			feeders[name] = f
			mu.Unlock()
			for k := range 30 {
				seed := uint64(n*1000 + k)
				f.record(t, 1, pattern(k*7, seed))
				f.bulkRecord(t, 2, pattern(3000+k*700, seed))
				if k%10 == n {
					f.record(t, 3, pattern(90_000, seed))
					f.bulkRecord(t, 2, pattern(1_200_000, seed))
				}
			}
		})
	}
	wg.Wait()
	return feeders
}

func TestConcurrentStreams(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.firn")
	w, err := Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.WriteBehind()
	w.WriteBehind()
	feeders := feedAll(t, w)
	totals, err := w.Commit(context.Background(), CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, path, feeders, totals)
}

func TestConcurrentStreamsOfAPipe(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.WriteBehind()
	feeders := feedAll(t, w)
	if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	i, err := open(bytes.NewReader(buf.Bytes()), int64(buf.Len()), "x.firn")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	for name, f := range feeders {
		f.check(t, i, name)
	}
}

// One stream may be used by several goroutines as well; only the order of
// bulk payloads is then open.
func TestConcurrentBulkOfOneStream(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.firn")
	w, err := Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := w.Stream("mm")
	f := newFeeder(s)
	type place struct {
		off uint64
		err error
	}
	places := make([]place, 40)
	var wg sync.WaitGroup
	for n := range places {
		wg.Go(func() {
			off, err := s.WriteBulk(pattern(50_000+n*5000, uint64(n)))
			places[n] = place{off, err}
		})
	}
	wg.Wait()
	for n, p := range places {
		if p.err != nil {
			t.Fatal(p.err)
		}
		f.refer(t, 2, pattern(50_000+n*5000, uint64(n)), p.off)
	}
	totals, err := w.Commit(context.Background(), CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, path, map[string]*feeder{"mm": f}, totals)
}

func TestAbortWhileStreamsWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "x.firn"), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.WriteBehind()
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			s := w.Stream(fmt.Sprintf("p%d", n))
			for {
				if _, err := s.WriteBulk(make([]byte, 100_000)); err != nil {
					return
				}
				if w.Stream("other").WriteRecords(make([]byte, 64), 1) != nil {
					return
				}
			}
		})
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("directory has %q", names)
	}
}
