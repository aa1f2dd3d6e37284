package mm

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

// scriptOf builds the script of a space in which this process stands for the seed.
func scriptOf(t *testing.T, mappings []*mmpb.Mapping, chunks []chunk) *builder {
	t.Helper()
	sp := &spaceImage{task: 1, mappings: mappings, chunks: chunks,
		record: &mmpb.AddressSpace{Exe: 1, Fields: &mmpb.Fields{}, Auxv: make([]byte, 320)}}
	img := &image{files: map[uint32]*mmpb.MappedFile{1: {Id: 1, Path: "/bin/x"}, 2: {Id: 2, Path: "/lib/y"}},
		spaces: map[sdk.TaskID]*spaceImage{1: sp}}
	b := &builder{img: img, imageFD: 3, pluginFD: 4}
	proc := &sdk.Process{ID: 1, PID: os.Getpid(), Reserved: sdk.AddrRange{Start: 1 << 45, End: 1<<45 + 1<<24}}
	if err := b.build(proc); err != nil {
		t.Fatal(err)
	}
	checkTapes(t, b.script)
	return b
}

// checkTapes makes sure that tapes are within the host's limits and that no
// argument refers to what is not there.
func checkTapes(t *testing.T, s *script) {
	t.Helper()
	for i, tp := range s.tapes {
		if len(tp.Calls) > tape.MaxEntries || len(tp.Data) > tape.MaxData {
			t.Errorf("tape %d: %d calls, %d bytes", i, len(tp.Calls), len(tp.Data))
		}
		for n, c := range tp.Calls {
			for _, a := range c.Args {
				if a.Kind == tape.ArgResult && a.Value >= uint64(n) || a.Kind == tape.ArgData && a.Value >= uint64(len(tp.Data)) {
					t.Fatalf("tape %d call %d: argument %+v", i, n, a)
				}
			}
		}
	}
}

// count counts the calls with a number in all tapes.
func count(s *script, nr int) int {
	n := 0
	for _, tp := range s.tapes {
		for _, c := range tp.Calls {
			if c.Nr == nr {
				n++
			}
		}
	}
	return n
}

func TestScriptOpensNeighborsOnce(t *testing.T) {
	var maps []*mmpb.Mapping
	at := uint64(1 << 30)
	for i, source := range []uint32{1, 1, 1, 2, 2, 1} {
		flags := uint64(0)
		if i == 4 {
			flags = 1<<mmpb.Flag_FLAG_SHARED | 1<<mmpb.Flag_FLAG_MAY_WRITE
		}
		maps = append(maps, &mmpb.Mapping{Start: at, End: at + pageSize, Kind: mmpb.Kind_KIND_FILE, Source: source, Prot: 1, Flags: flags})
		at += pageSize
	}
	b := scriptOf(t, maps, nil)
	// Three runs of neighbors, one change of the mode, and the executable.
	if n := count(b.script, unix.SYS_OPENAT); n != 5 {
		t.Errorf("%d files opened", n)
	}
	if n := count(b.script, unix.SYS_MMAP); n != len(maps)+1 {
		t.Errorf("%d mappings", n)
	}
}

func TestScriptOfManyMappings(t *testing.T) {
	var maps []*mmpb.Mapping
	const n = 60000
	for i := range uint64(n) {
		m := &mmpb.Mapping{Start: 1<<32 + i*2*pageSize, Prot: 1, Kind: mmpb.Kind_KIND_FILE, Source: uint32(i%2 + 1),
			Flags: 1 << mmpb.Flag_FLAG_DONT_FORK, Name: strings.Repeat("x", 80)}
		m.End = m.Start + pageSize
		maps = append(maps, m)
	}
	b := scriptOf(t, maps, nil)
	if len(b.tapes) < 2 || count(b.script, unix.SYS_MMAP) != n+1 || count(b.script, unix.SYS_MADVISE) != n {
		t.Errorf("%d tapes, %d mappings", len(b.tapes), count(b.script, unix.SYS_MMAP))
	}
	if opens, closes := count(b.script, unix.SYS_OPENAT), count(b.script, unix.SYS_CLOSE); closes != opens+2 {
		t.Errorf("%d files opened, %d closed", opens, closes) // and the memfd and the second number of the executable
	}
}

func TestScriptProtection(t *testing.T) {
	const account = 1 << mmpb.Flag_FLAG_ACCOUNT
	anon := func(start, end uint64, prot uint32, flags uint64) *mmpb.Mapping {
		return &mmpb.Mapping{Start: start, End: end, Kind: mmpb.Kind_KIND_ANONYMOUS, Prot: prot, Flags: flags}
	}
	base := uint64(1 << 32)
	maps := []*mmpb.Mapping{
		anon(base, base+pageSize, unix.PROT_READ, account),        // was writable once
		anon(base+2*pageSize, base+3*pageSize, unix.PROT_READ, 0), // was not
		anon(base+4*pageSize, base+5*pageSize, unix.PROT_NONE, 0), // has a page
		anon(base+6*pageSize, base+7*pageSize, unix.PROT_READ|unix.PROT_WRITE, account),
	}
	chunks := []chunk{{runs: []run{{base + 4*pageSize, base + 5*pageSize}}, bulk: sdk.Record{BulkOffset: 4096, BulkLen: int64(pageSize)}}}
	b := scriptOf(t, maps, chunks)
	if n := count(b.script, unix.SYS_MPROTECT); n != 2 {
		t.Errorf("%d changes of protection", n)
	}
	if len(b.reads) != 1 || b.reads[0].want != pageSize {
		t.Errorf("reads %v", b.reads)
	}
}

func TestScriptRefusesTheHostsRange(t *testing.T) {
	reserved := sdk.AddrRange{Start: 1 << 32, End: 1<<32 + 1<<20}
	sp := &spaceImage{record: &mmpb.AddressSpace{}, mappings: []*mmpb.Mapping{{Start: 1<<32 - pageSize, End: 1<<32 + pageSize}}}
	b := &builder{sp: sp}
	if _, err := b.scratch(reserved, nil); err == nil {
		t.Error("a mapping over the host's range was accepted")
	}
	sp.mappings = []*mmpb.Mapping{{Start: lowest, End: 1 << 32}}
	at, err := b.scratch(reserved, []procfs.Mapping{{Start: reserved.End, End: reserved.End + pageSize}})
	if err != nil || at != reserved.End+pageSize {
		t.Errorf("free range at %x, %v", at, err)
	}
}

func TestSteps(t *testing.T) {
	const mib = 1 << 20
	runs := []run{{1<<32 + mib, 1<<32 + 84*mib}, {1 << 33, 1<<33 + pageSize}}
	at := runs[0].start
	for _, s := range steps(runs) {
		if at == runs[0].end {
			at = runs[1].start
		}
		if s.start != at || s.len() > stepSize || s.len() == 0 {
			t.Fatalf("step %x-%x after %x", s.start, s.end, at)
		}
		at = s.end
	}
	if at != runs[1].end {
		t.Errorf("steps end at %x", at)
	}
}

func TestSplitLoad(t *testing.T) {
	l := load{runs: []run{pages(0, 10), pages(20, 22), pages(30, 31)}, off: 100}
	in, out := l.split([]run{pages(2, 4), pages(8, 21), pages(40, 50)})
	off := func(n uint64) int64 { return 100 + int64(n*pageSize) }
	check := func(name string, got, want []load) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%s: %v", name, got)
		}
		for i := range want {
			if got[i].off != want[i].off || !slices.Equal(got[i].runs, want[i].runs) {
				t.Errorf("%s %d: %v, want %v", name, i, got[i], want[i])
			}
		}
	}
	check("in", in, []load{{runs: []run{pages(2, 4)}, off: off(2)}, {runs: []run{pages(8, 10), pages(20, 21)}, off: off(8)}})
	check("out", out, []load{{runs: []run{pages(0, 2)}, off: off(0)}, {runs: []run{pages(4, 8)}, off: off(4)},
		{runs: []run{pages(21, 22), pages(30, 31)}, off: off(11)}})
}

// TestLanes makes sure that large private memory is left to lanes, and nothing
// else.
func TestLanes(t *testing.T) {
	gate.Feature(t, "userfaultfd", haveLanes())
	const mib = 1 << 20
	anon := func(at uint64, size uint64, flags uint64) *mmpb.Mapping {
		return &mmpb.Mapping{Start: at, End: at + size, Kind: mmpb.Kind_KIND_ANONYMOUS, Prot: 3, Flags: flags}
	}
	base := uint64(1 << 32)
	maps := []*mmpb.Mapping{
		anon(base, 32*mib, 1<<mmpb.Flag_FLAG_NO_HUGE_PAGE), anon(base+32*mib, mib/2, 0),
		anon(base+64*mib, 32*mib, 1<<mmpb.Flag_FLAG_HUGE_PAGE),
	}
	bulk := sdk.Record{BulkOffset: 4096, BulkLen: 64*mib + mib/2}
	chunks := []chunk{{runs: []run{{base, base + 32*mib + mib/2}, {base + 64*mib, base + 96*mib}}, bulk: bulk}}
	b := scriptOf(t, maps, chunks)
	if b.lanes == nil || len(b.lanes.loads) != 1 || b.lanes.loads[0].runs[0] != (run{base, base + 32*mib}) {
		t.Fatalf("lanes %+v", b.lanes)
	}
	if len(b.loads) != 1 || b.loads[0].off != 32*mib || runBytes(b.loads[0].runs) != 32*mib+mib/2 {
		t.Errorf("the task's loads: %+v", b.loads)
	}
	if count(b.script, unix.SYS_USERFAULTFD) != 1 || count(b.script, unix.SYS_PRCTL) != 0 {
		t.Error("the first tapes go too far, or not far enough")
	}
	if b = scriptOf(t, maps[1:], []chunk{{runs: []run{{base + 32*mib, base + 32*mib + mib/2}}, bulk: bulk}}); b.lanes != nil {
		t.Error("lanes for little memory")
	}
}
