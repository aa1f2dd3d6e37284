package sdk

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/firn-cr/firn/sdk/hbuf"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// packed is a segment with n records of growing size for objects 0, 1 and 2.
func packed(n int) []byte {
	var b []byte
	for i := range n {
		h := hbuf.Header{Kind: 1, Version: 1, Object: uint64(i % 3), Seq: uint64(i)}
		b = hbuf.AppendRecord(b, h, []byte(strings.Repeat("x", i*7)))
	}
	return b
}

func recordsOf(t *testing.T, r *imageRecords, object int) (n int, err error) {
	t.Helper()
	seq := r.All()
	if object >= 0 {
		seq = r.Object(uint64(object))
	}
	for rec, err := range seq {
		if err != nil {
			return n, err
		}
		if !rec.Bulk && strings.Trim(string(rec.Payload), "x") != "" {
			t.Fatalf("payload %q", rec.Payload)
		}
		n++
	}
	return n, nil
}

func TestRecordsAcrossWindowsAndBlocks(t *testing.T) {
	const n = 1200 // 5 MB: several windows
	seg := packed(n)
	image := append(append(make([]byte, 4096), seg...), seg...)
	r := newImageRecords(bytes.NewReader(image), []*pb.ImageBlock{
		{Offset: 4096, Length: uint64(len(seg))}, {Offset: uint64(4096 + len(seg)), Length: uint64(len(seg))}, {Offset: 5, Length: 0},
	})
	for object, want := range map[int]int{-1: 2 * n, 0: 2 * n / 3, 2: 2 * n / 3, 9: 0} {
		if got, err := recordsOf(t, r, object); got != want || err != nil {
			t.Errorf("object %d: %d records, want %d: %v", object, got, want, err)
		}
	}
	for range r.All() { // stopping early
		break
	}
}

func TestPayloadsStayValid(t *testing.T) {
	seg := packed(600)
	r := newImageRecords(bytes.NewReader(seg), []*pb.ImageBlock{{Length: uint64(len(seg))}})
	var kept [][]byte
	for rec, err := range r.All() {
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, rec.Payload)
	}
	for i, b := range kept {
		if len(b) != i*7 || strings.Trim(string(b), "x") != "" {
			t.Fatalf("payload %d changed", i)
		}
	}
}

func TestDamagedImage(t *testing.T) {
	seg := packed(10)
	flip := func(at int) []byte {
		b := bytes.Clone(seg)
		b[at] ^= 1
		return b
	}
	for name, c := range map[string]struct {
		image          []byte
		offset, length uint64
	}{
		"header":    {flip(64), 0, uint64(len(seg))},
		"payload":   {flip(64 + 64 + 3), 0, uint64(len(seg))},
		"truncated": {seg[:len(seg)-64], 0, uint64(len(seg))},
		"short":     {seg, 0, uint64(len(seg)) - 64},
		"shifted":   {seg, 8, uint64(len(seg)) - 8},
		"outside":   {seg, 1 << 40, 128},
		"overflow":  {seg, math.MaxUint64 - 10, 100},
		"length":    {seg, 0, math.MaxUint64},
		"tiny":      {seg, 0, 3},
	} {
		r := newImageRecords(bytes.NewReader(c.image), []*pb.ImageBlock{{Offset: c.offset, Length: c.length}})
		for _, object := range []int{-1, 1} {
			if _, err := recordsOf(t, r, object); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, object %d: %v", name, object, err)
			}
		}
	}
}

func TestReadBulkBounds(t *testing.T) {
	r := newImageRecords(strings.NewReader("0123456789"), nil)
	rec := Record{Bulk: true, BulkOffset: 2, BulkLen: 5}
	b := make([]byte, 3)
	if err := r.ReadBulk(rec, b, 1); err != nil || string(b) != "345" {
		t.Errorf("%q: %v", b, err)
	}
	for _, off := range []int64{-1, 3, 6, math.MaxInt64, math.MinInt64} {
		if err := r.ReadBulk(rec, b, off); !errors.Is(err, ErrCorrupt) {
			t.Errorf("offset %d: %v", off, err)
		}
	}
	if err := r.ReadBulk(Record{}, b, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no bulk record: %v", err)
	}
	if err := r.ReadBulk(Record{Bulk: true, BulkOffset: 8, BulkLen: 5}, b, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("behind the end: %v", err)
	}
}

func FuzzRecords(f *testing.F) {
	f.Add(packed(5), uint64(0), uint64(len(packed(5))))
	f.Add([]byte("x"), uint64(1), uint64(1)<<63)
	f.Fuzz(func(_ *testing.T, image []byte, offset, length uint64) {
		r := newImageRecords(bytes.NewReader(image), []*pb.ImageBlock{{Offset: offset, Length: length}})
		for rec, err := range r.All() {
			if err != nil {
				break
			}
			if rec.Bulk {
				_ = r.ReadBulk(rec, make([]byte, 10), 0)
			}
		}
		for range r.Object(0) {
		}
	})
}
