package mm

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// pages makes a run of page numbers.
func pages(start, end uint64) run { return run{start * pageSize, end * pageSize} }

func TestRunsRoundTrip(t *testing.T) {
	for _, runs := range [][]run{{}, {pages(0, 1)}, {pages(3, 9), pages(10, 11), pages(1<<40, 1<<40+5)}} {
		got, err := decodeRuns(encodeRuns(runs))
		if err != nil || !slices.Equal(got, runs) {
			t.Errorf("%v became %v, %v", runs, got, err)
		}
	}
}

func TestDecodeRunsRefuses(t *testing.T) {
	for _, p := range [][]uint64{{1}, {0, 0}, {1 << 63, 1}, {1, 1 << 63}, {1 << 49, 1 << 49, 1 << 49, 1 << 49}} {
		if runs, err := decodeRuns(&mmpb.Runs{Pages: p}); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%v: %v, %v", p, runs, err)
		}
	}
}

func FuzzDecodeRuns(f *testing.F) {
	b, _ := proto.Marshal(encodeRuns([]run{pages(3, 9), pages(10, 11)}))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &mmpb.Runs{}
		if proto.Unmarshal(b, m) != nil {
			return
		}
		runs, err := decodeRuns(m)
		if err != nil {
			return
		}
		var last uint64
		for _, r := range runs {
			if r.start < last || r.end <= r.start || r.end > maxOffset {
				t.Fatalf("run %x-%x after %x", r.start, r.end, last)
			}
			last = r.end
		}
		if again := encodeRuns(runs); !slices.Equal(again.Pages, m.Pages) {
			t.Fatalf("%v became %v", m.Pages, again.Pages)
		}
	})
}

func TestCutRuns(t *testing.T) {
	in := []run{pages(0, 3), pages(10, 11), pages(20, 30)}
	groups := cutRuns(in, 4*pageSize)
	want := [][]run{{pages(0, 3), pages(10, 11)}, {pages(20, 24)}, {pages(24, 28)}, {pages(28, 30)}}
	if len(groups) != len(want) {
		t.Fatalf("groups %v", groups)
	}
	for i := range want {
		if !slices.Equal(groups[i], want[i]) {
			t.Errorf("group %d: %v, want %v", i, groups[i], want[i])
		}
	}
}

// spaceWith makes a space with anonymous memory from page 0 to 100 and a
// file's mapping from there to page 200.
func spaceWith() *space {
	anon := vma{kind: mmpb.Kind_KIND_ANONYMOUS}
	anon.Start, anon.End = 0, 100*pageSize
	file := vma{kind: mmpb.Kind_KIND_FILE}
	file.Start, file.End = 100*pageSize, 200*pageSize
	return &space{vmas: []vma{anon, file}}
}

func TestDropZeros(t *testing.T) {
	size := int(pageSize)
	fill := func(pattern string) []byte {
		var b []byte
		for _, c := range []byte(pattern) {
			page := make([]byte, size)
			if c != '0' {
				page[size-1] = c
			}
			b = append(b, page...)
		}
		return b
	}
	for _, c := range []struct {
		in, out string
		runs    []run
		kept    []run
	}{
		{"0000", "", []run{pages(5, 9)}, nil},
		{"a0bc", "abc", []run{pages(5, 9)}, []run{pages(5, 6), pages(7, 9)}},
		{"a0b0", "ab", []run{pages(5, 7), pages(20, 22)}, []run{pages(5, 6), pages(20, 21)}},
		{"a00b", "a00b", []run{pages(150, 154)}, []run{pages(150, 154)}},
		{"0000", "00", []run{pages(98, 100), pages(120, 122)}, []run{pages(120, 122)}},
	} {
		mem := fill(c.in)
		kept, n := dropZeros(&job{space: spaceWith(), runs: c.runs}, mem)
		if !slices.Equal(kept, c.kept) || !bytes.Equal(mem[:n], fill(c.out)) {
			t.Errorf("%q: kept %v, %d bytes", c.in, kept, n)
		}
	}
}

func TestSelectOwned(t *testing.T) {
	smap := func(start, end uint64) procfs.Smap {
		return procfs.Smap{Mapping: procfs.Mapping{Start: start, End: end}}
	}
	smaps := []procfs.Smap{smap(1, 2), smap(2, 4), smap(6, 8), smap(8, 9)}
	owned := []sdk.AddrRange{{Start: 2, End: 4}, {Start: 8, End: 9}}
	got, err := selectOwned(smaps, owned, true)
	if err != nil || len(got) != 2 || got[0].Start != 2 || got[1].Start != 8 {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range [][]sdk.AddrRange{
		{{Start: 2, End: 5}}, {{Start: 4, End: 5}, {Start: 6, End: 8}}, {{Start: 9, End: 10}}, {{Start: 6, End: 7}},
	} {
		if _, err := selectOwned(smaps, bad, true); !errors.Is(err, sdk.ErrChanged) {
			t.Errorf("%v: %v", bad, err)
		}
		if _, err := selectOwned(smaps, bad, false); err != nil {
			t.Errorf("%v while running: %v", bad, err)
		}
	}
}
