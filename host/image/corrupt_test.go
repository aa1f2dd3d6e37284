package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
)

// verifyBytes opens and verifies an image in memory.
func verifyBytes(b []byte) error {
	i, err := open(bytes.NewReader(b), int64(len(b)), "x.firn")
	if err != nil {
		return err
	}
	return i.Verify(context.Background())
}

// smallImage is an image with every type of block but padding.
func smallImage(tb testing.TB) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, testManifest())
	if err != nil {
		tb.Fatal(err)
	}
	f := newFeeder(w.Stream("mm"))
	f.record(tb, 1, pattern(70, 1))
	f.bulkRecord(tb, 2, pattern(4096, 2))
	f.bulkRecord(tb, 2, pattern(17, 3))
	g := newFeeder(w.Stream("files"))
	g.record(tb, 3, nil)
	g.bulkRecord(tb, 2, pattern(5000, 4))
	g.record(tb, 3, pattern(64, 5))
	if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// largeImage has padding blocks and large payloads.
func largeImage(tb testing.TB) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "x.firn")
	w, err := Create(path, testManifest())
	if err != nil {
		tb.Fatal(err)
	}
	fill(tb, w, 20)
	if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
		tb.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// mustBeCorrupt verifies b and demands a complete error.
func mustBeCorrupt(t *testing.T, b []byte, format string, args ...any) {
	t.Helper()
	err := verifyBytes(b)
	var c *CorruptError
	if !errors.Is(err, sdk.ErrCorrupt) || !errors.As(err, &c) || c.Section == "" || c.Path == "" {
		t.Errorf(format+": error is %v", append(args, err)...)
	}
}

func TestEveryByteOfASmallImage(t *testing.T) {
	t.Parallel()
	b := smallImage(t)
	if err := verifyBytes(b); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", len(b))
	r := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < len(b); at += stride {
		change := byte(1 + r.IntN(255))
		b[at] ^= change
		mustBeCorrupt(t, b, "byte %d changed by %#x", at, change)
		b[at] ^= change
	}
	if err := verifyBytes(b); err != nil {
		t.Fatal(err)
	}
}

func TestEveryLengthOfASmallImage(t *testing.T) {
	t.Parallel()
	b := smallImage(t)
	for n := range b {
		mustBeCorrupt(t, b[:n:n], "cut to %d bytes", n)
	}
	for n := 1; n <= 200; n++ {
		mustBeCorrupt(t, append(bytes.Clone(b), make([]byte, n)...), "%d zeros appended", n)
		mustBeCorrupt(t, append(bytes.Clone(b), b[:n]...), "%d bytes appended", n)
		mustBeCorrupt(t, append(bytes.Clone(b), b[len(b)-n:]...), "%d bytes of the end appended", n)
	}
	mustBeCorrupt(t, append(bytes.Clone(b), b...), "image appended to itself")
}

func TestSampledBytesOfALargeImage(t *testing.T) {
	t.Parallel()
	b := largeImage(t)
	i, err := open(bytes.NewReader(b), int64(len(b)), "x.firn")
	if err != nil {
		t.Fatal(err)
	}
	types := map[blockType]int{}
	at := map[int]bool{}
	for _, e := range i.blocks {
		types[e.kind]++
		// Both ends of each block, and of what it has behind its header.
		for _, off := range []uint64{e.offset, e.offset + 63, e.offset + 64, e.offset + 79, e.end() - 1} {
			at[int(off)] = true
		}
	}
	for _, k := range []blockType{blockManifest, blockStream, blockRecords, blockBulk, blockPadding} {
		if types[k] == 0 {
			t.Errorf("the image has no %s block", k)
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		at[r.IntN(len(b))] = true
	}
	t.Logf("%d bytes, %d places", len(b), len(at))
	for off := range at {
		b[off] ^= 0x10
		mustBeCorrupt(t, b, "byte %d changed", off)
		b[off] ^= 0x10
	}
	for range 200 {
		n := r.IntN(len(b))
		mustBeCorrupt(t, b[:n:n], "cut to %d bytes", n)
	}
}

// Blocks of another image at the same place have checksums that are right.
func TestMixedImages(t *testing.T) {
	t.Parallel()
	a, b := smallImage(t), smallImage(t)
	i, err := open(bytes.NewReader(a), int64(len(a)), "x.firn")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range i.blocks[1:] {
		mixed := bytes.Clone(a)
		copy(mixed[e.offset:e.end()], b[e.offset:e.end()])
		mustBeCorrupt(t, mixed, "%s block at %d of another image", e.kind, e.offset)
	}
}

func TestErrorNamesSectionPluginAndOffset(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.firn")
	w, err := Create(path, &imagepb.Manifest{Plugins: []*imagepb.Plugin{{Name: "mm"}}})
	if err != nil {
		t.Fatal(err)
	}
	f := newFeeder(w.Stream("mm"))
	f.bulkRecord(t, 1, pattern(100_000, 1))
	f.bulkRecord(t, 1, pattern(100_000, 2))
	if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	off := f.want[1].BulkOffset
	b[off+5000]++
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	err = i.Verify(context.Background())
	want := fmt.Sprintf("image %s: section bulk of plugin mm at offset %d: checksum mismatch", path, off)
	if err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := largeImage(t)
	i, err := open(bytes.NewReader(b), int64(len(b)), "x.firn")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := i.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
