package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
)

// feeder emits records into a stream as a consumer of package hbuf does.
type feeder struct {
	s    *Stream
	seq  uint64
	want []sdk.Record
	bulk map[int64][]byte
}

func newFeeder(s *Stream) *feeder { return &feeder{s: s, bulk: map[int64][]byte{}} }

func (f *feeder) record(tb testing.TB, kind uint32, payload []byte) {
	tb.Helper()
	packed := hbuf.AppendRecord(nil, hbuf.Header{Kind: kind, Version: 1, Object: f.seq + 7, Seq: f.seq}, payload)
	if err := f.s.WriteRecords(packed, 1); err != nil {
		tb.Fatal(err)
	}
	f.want = append(f.want, sdk.Record{Kind: kind, Version: 1, Object: f.seq + 7, Payload: payload})
	f.seq++
}

func (f *feeder) bulkRecord(tb testing.TB, kind uint32, data []byte) {
	tb.Helper()
	off, err := f.s.WriteBulk(data)
	if err != nil {
		tb.Fatal(err)
	}
	f.refer(tb, kind, data, off)
}

// refer emits the record of a payload that is written.
func (f *feeder) refer(tb testing.TB, kind uint32, data []byte, off uint64) {
	tb.Helper()
	h := hbuf.Header{
		Flags: hbuf.FlagBulk, Kind: kind, Version: 1, Object: f.seq + 7, Seq: f.seq,
		Length: uint64(len(data)), CRC: hbuf.Checksum(data), Bulk: off,
	}
	packed := hbuf.AppendRecord(nil, h, nil)
	if err := f.s.WriteRecords(packed, 1); err != nil {
		tb.Fatal(err)
	}
	f.want = append(f.want, sdk.Record{
		Kind: kind, Version: 1, Object: f.seq + 7, Bulk: true, BulkOffset: int64(off), BulkLen: int64(len(data)),
	})
	f.bulk[int64(off)] = bytes.Clone(data)
	f.seq++
}

// check compares what an image has with what was fed.
func (f *feeder) check(t *testing.T, i *Image, plugin string) {
	t.Helper()
	n := 0
	for got, err := range i.Records(plugin) {
		if err != nil {
			t.Fatal(err)
		}
		if n == len(f.want) {
			t.Fatalf("more than %d records of %s", n, plugin)
		}
		want := f.want[n]
		n++
		if !bytes.Equal(got.Payload, want.Payload) {
			t.Errorf("payload of record %d of %s differs", n, plugin)
		}
		got.Payload, want.Payload = nil, nil
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("record %d of %s (-fed +read):\n%s", n, plugin, d)
		}
		if !got.Bulk {
			continue
		}
		b := make([]byte, got.BulkLen)
		if err := i.ReadBulk(got, b, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, f.bulk[got.BulkOffset]) {
			t.Errorf("bulk payload at %d differs", got.BulkOffset)
		}
		if got.BulkOffset%int64(os.Getpagesize()) != 0 {
			t.Errorf("bulk payload at %d is not page aligned", got.BulkOffset)
		}
	}
	if n != len(f.want) {
		t.Errorf("%d records of %s, want %d", n, plugin, len(f.want))
	}
}

// pattern returns n bytes that depend on seed and are not zero.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n+8)
	r := rand.New(rand.NewPCG(seed, 1))
	for off := 0; off < n; off += 8 {
		binary.LittleEndian.PutUint64(b[off:], r.Uint64()|0x0101010101010101)
	}
	return b[:n]
}

func testManifest() *imagepb.Manifest {
	return &imagepb.Manifest{
		FirnVersion: "0.1.0", RootPid: 42, KernelRelease: "6.18.0", Mode: "stop",
		Plugins: []*imagepb.Plugin{
			{Name: "mm", Version: "1.2.3", ApiVersion: 1},
			{Name: "files", Version: "1.0.0", ApiVersion: 1, Records: []*imagepb.RecordType{{Kind: 3, Version: 1, Name: "RegularFile"}}},
		},
	}
}

// fill writes a mixture of everything into two streams.
func fill(tb testing.TB, w *Writer, rounds int) map[string]*feeder {
	tb.Helper()
	feeders := map[string]*feeder{}
	for _, name := range []string{"mm", "files"} {
		f := newFeeder(w.Stream(name))
		feeders[name] = f
	}
	for n := range rounds {
		for k, name := range []string{"mm", "files"} {
			f := feeders[name]
			seed := uint64(n*2 + k)
			f.record(tb, 1, pattern(n%300, seed))
			f.bulkRecord(tb, 2, pattern(4096*(1+n%3), seed))
			f.bulkRecord(tb, 2, pattern(100+n, seed))
			if n%4 == 1 {
				f.bulkRecord(tb, 2, pattern(200_000, seed))
				f.record(tb, 3, pattern(100_000, seed))
			}
		}
	}
	return feeders
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.firn")
	w, err := Create(path, testManifest())
	if err != nil {
		t.Fatal(err)
	}
	feeders := fill(t, w, 40)
	totals, err := w.Commit(context.Background(), CommitOptions{Sync: true})
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, path, feeders, totals)
}

func TestRoundTripPipe(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewWriter(&buf, testManifest())
	if err != nil {
		t.Fatal(err)
	}
	feeders := fill(t, w, 40)
	totals, err := w.Commit(context.Background(), CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.firn")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	checkImage(t, path, feeders, totals)
}

func checkImage(t *testing.T, path string, feeders map[string]*feeder, totals Totals) {
	t.Helper()
	i, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if err := i.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	for name, f := range feeders {
		f.check(t, i, name)
	}
	if d := cmp.Diff(totals, i.Totals()); d != "" {
		t.Errorf("totals (-written +read):\n%s", d)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || uint64(info.Size()) != totals.FileBytes {
		t.Errorf("mode %v, %d bytes; want 0600, %d", info.Mode(), info.Size(), totals.FileBytes)
	}
}
