package mm

import (
	"bytes"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/tape"
)

// testRecords gives the plugin the records of an image in memory.
type testRecords struct {
	t   testing.TB
	img *sdktest.Image
}

func (r testRecords) All() iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for _, rec := range r.img.Records(r.t) {
			if !yield(rec, nil) {
				return
			}
		}
	}
}

func (r testRecords) Object(object uint64) iter.Seq2[sdk.Record, error] {
	return func(yield func(sdk.Record, error) bool) {
		for rec := range r.All() {
			if rec.Object == object && !yield(rec, nil) {
				return
			}
		}
	}
}

func (r testRecords) ReadBulk(rec sdk.Record, b []byte, off int64) error {
	_, err := r.img.File().ReadAt(b, rec.BulkOffset+off)
	return err
}

// dumped is an image of subjects, read back.
type dumped struct {
	*sdktest.Image
	*image
}

// patience bounds what a test waits for, on a machine that has other work.
const patience = 2 * time.Minute

// harness makes a harness for the processes.
func harness(t testing.TB, pids ...int) *sdktest.Harness {
	return sdktest.New(t, New(), sdktest.Config{
		Tree: tree(pids...), Resources: resources(t, pids...), Host: &sdktest.Host{Tapes: inquireHere},
		Timeout: patience,
	})
}

// heapRest is what subjects leave of the last page of their heap.
const heapRest = 100

// inquireHere runs the tape that asks a process about its memory in this
// process, and corrects the answer: stopped subjects have no tracer.
func inquireHere(r tape.Run) tape.Outcome {
	o := sdktest.Execute(r)
	st, err := procfs.Stat(r.TID)
	if err != nil {
		return tape.Outcome{Err: err}
	}
	o.Results[0] = int64(st.StartBrk)
	maps, err := procfs.Maps(r.TID)
	if err != nil {
		return tape.Outcome{Err: err}
	}
	for _, m := range maps {
		if m.Path == nameHeap {
			o.Results[0] = int64(m.End - heapRest)
		}
	}
	return o
}

// dumpSubjects dumps stopped processes.
func dumpSubjects(t testing.TB, pids ...int) dumped {
	t.Helper()
	img, err := harness(t, pids...).Dump()
	if err != nil {
		t.Fatal(err)
	}
	read, err := readImage(testRecords{t, img})
	if err != nil {
		t.Fatal(err)
	}
	return dumped{img, read}
}

// stored puts together what the image holds of a range; holes are nil.
func stored(t testing.TB, d dumped, chunks []chunk, start, end uint64) [][]byte {
	t.Helper()
	pages := make([][]byte, (end-start)/pageSize)
	for _, c := range chunks {
		data := d.Bulk(t, c.bulk)
		for _, r := range c.runs {
			for at := r.start; at < r.end; at += pageSize {
				if at >= start && at < end {
					pages[(at-start)/pageSize] = data[:pageSize]
				}
				data = data[pageSize:]
			}
		}
	}
	return pages
}

func TestDumpedPages(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	d := dumpSubjects(t, l.pid)
	sp := d.spaces[sdk.TaskID(l.pid)]
	for name, absent := range map[string][]int{
		"plain": {3, 9}, "readonly": {0, 1, 6, 7}, "hidden": {}, "writeonly": {}, "large": {},
		"file": {0, 1, 4, 5, 6, 7}, "cleanfile": {0, 1, 2, 3, 4, 5, 6, 7}, "devzero": {0, 2, 3},
		"sharedfile": {0, 1, 2, 3, 4, 5, 6, 7}, "guarded": {5, 6}, "droppable": {0, 1, 2, 3},
		"locked": {0, 2, 3}, "lockonfault": {0, 2, 3},
	} {
		a, ok := l.areas[name]
		if !ok {
			continue
		}
		pages := stored(t, d, sp.chunks, a.Start, a.End)
		gone := map[int]bool{}
		for _, n := range absent {
			gone[n] = true
		}
		for n, p := range pages {
			if gone[n] != (p == nil) {
				t.Errorf("%s: page %d stored: %v", name, n, p != nil)
			}
			if p != nil && !bytes.Equal(p, memoryOf(t, l.pid, area{a.Start + uint64(n)*pageSize, a.Start + uint64(n+1)*pageSize})) {
				t.Errorf("%s: page %d differs", name, n)
			}
		}
	}
	if len(sp.guards) != 1 || sp.guards[0].len() != 2*pageSize {
		t.Errorf("guards %v", sp.guards)
	}
}

func TestDumpedSharedMemory(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	d := dumpSubjects(t, l.pid)
	a := l.areas["sharedsplit"]
	for _, sh := range d.shared {
		switch {
		case sh.users == 1:
			if sh.whole == nil || sh.record.Size != 16*pageSize || runBytes(sh.chunks[0].runs) != 4*pageSize {
				t.Errorf("shared: %+v", sh)
			}
		case sh.users == 4:
			pages := stored(t, d, sh.chunks, 0, 16*pageSize)
			for n := range 8 {
				want := memoryOf(t, l.pid, area{a.Start + uint64(n)*pageSize, a.Start + uint64(n+1)*pageSize})
				if !bytes.Equal(pages[n], want) {
					t.Errorf("split: page %d differs", n)
				}
			}
			if pages[8] == nil {
				t.Error("the page that is mapped no more is lost")
			}
		default:
			t.Errorf("object with %d users", sh.users)
		}
	}
	if len(d.shared) != 2 {
		t.Errorf("%d objects", len(d.shared))
	}
}

// TestDumpDoesNotUnshare makes sure that pages that a child shares are still
// shared after a dump of both.
func TestDumpDoesNotUnshare(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "cow")
	child := int(l.areas["child"].Start)
	before, childBefore := privateDirty(t, l.pid, l.areas["cow"]), privateDirty(t, child, l.areas["cow"])
	if before != 100*pageSize {
		t.Fatalf("%d bytes are private before the dump", before)
	}
	dumpSubjects(t, l.pid, child)
	after, childAfter := privateDirty(t, l.pid, l.areas["cow"]), privateDirty(t, child, l.areas["cow"])
	if after != before || childAfter != childBefore {
		t.Errorf("private memory grew from %d to %d, in the child from %d to %d", before, after, childBefore, childAfter)
	}
}

// privateDirty counts the pages of an area that only this process maps.
func privateDirty(t *testing.T, pid int, a area) uint64 {
	t.Helper()
	p, err := procfs.OpenPagemap(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	entries := make([]procfs.Page, (a.End-a.Start)/pageSize)
	if _, err := p.Read(a.Start, entries, nil); err != nil {
		t.Fatal(err)
	}
	var n uint64
	for _, e := range entries {
		if e.Exclusive() {
			n += pageSize
		}
	}
	return n
}

// TestScanMethods makes sure that both ways to find pages find the same.
func TestScanMethods(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	p := New().(*plugin)
	spaces, err := p.readSpaces(t.Context(), &sdk.Session{Tree: tree(l.pid), Resources: resources(t, l.pid)}, frozen)
	if err != nil {
		t.Fatal(err)
	}
	// The race detector reserves terabytes, which pagemap has entries for.
	sp := spaces[0]
	sp.vmas = slices.DeleteFunc(sp.vmas, func(v vma) bool { return v.Len() > 1<<36 })
	pagemap, err := procfs.OpenPagemap(l.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pagemap.Close()
	fast, err := sp.scan(pagemap)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := sp.scanEntries(pagemap)
	if err != nil {
		t.Fatal(err)
	}
	// pagemap does not tell the page of zeros from others.
	if a, b := runBytes(fast.pages), runBytes(slow.pages); a > b || b > a+64*pageSize {
		t.Errorf("scan found %d bytes, pagemap %d", a, b)
	}
	if len(fast.guards) != len(slow.guards) {
		t.Errorf("guards %v and %v", fast.guards, slow.guards)
	}
}

func TestPrepareEstimates(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	p := New().(*plugin)
	resp, err := p.Prepare(t.Context(), &sdk.PrepareRequest{Session: &sdk.Session{Tree: tree(l.pid), Resources: resources(t, l.pid)}})
	if err != nil {
		t.Fatal(err)
	}
	d := dumpSubjects(t, l.pid)
	var bulk int64
	for _, rec := range d.Records(t) {
		if rec.Bulk {
			bulk += rec.BulkLen
		}
	}
	if resp.BulkBytes < bulk || resp.BulkBytes > bulk*2 {
		t.Errorf("estimated %d bytes, dumped %d", resp.BulkBytes, bulk)
	}
}
