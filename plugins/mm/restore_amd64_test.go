package mm

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

// restoreInto builds the address spaces of an image in seeds, one for each of
// the processes that it was made of.
func restoreInto(t testing.TB, img *sdktest.Image, pids ...int) []*seed {
	t.Helper()
	tr := tree(pids...)
	var seeds []*seed
	byPID := map[int]*seed{}
	for i := range tr.Processes {
		s := startSeed(t, img.File())
		seeds = append(seeds, s)
		byPID[s.pid] = s
		tr.Processes[i].PID, tr.Processes[i].Threads[0].TID = s.pid, s.pid
		tr.Processes[i].Reserved = s.reserved
	}
	host := &sdktest.Host{Tapes: func(r tape.Run) tape.Outcome { return byPID[r.TID].run(r.Tape) }}
	h := sdktest.New(t, New(), sdktest.Config{Tree: tr, Host: host, ImageFD: seedImageFD, PluginFD: seedPluginFD, Timeout: patience})
	if _, err := h.Restore(img, wire.PhaseCheckImage, wire.PhaseRestoreMemory); err != nil {
		t.Fatal(err)
	}
	return seeds
}

func openFiles(t testing.TB, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// layout is what smaps says of a process, a line per mapping, without what is
// allowed to differ.
func layout(t testing.TB, pid int) []string {
	t.Helper()
	smaps, err := procfs.Smaps(pid)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range smaps {
		if m.Start == seedReserved.Start {
			continue
		}
		lines = append(lines, fmt.Sprintf("%x-%x %s %x %s [%s]", m.Start, m.End, m.Perm, m.Offset, m.Path, m.Flags&^procfs.VMSoftDirty))
	}
	return lines
}

func compareLayouts(t *testing.T, want, got []string) {
	t.Helper()
	inGot := map[string]bool{}
	for _, l := range got {
		inGot[l] = true
	}
	inWant := map[string]bool{}
	for _, l := range want {
		inWant[l] = true
		if !inGot[l] {
			t.Errorf("missing: %s", l)
		}
	}
	for _, l := range got {
		if !inWant[l] {
			t.Errorf("instead: %s", l)
		}
	}
}

// compareContents compares all memory of which something is there.
func compareContents(t *testing.T, want, got int) {
	t.Helper()
	smaps, err := procfs.Smaps(want)
	if err != nil {
		t.Fatal(err)
	}
	a, b := openMem(t, want), openMem(t, got)
	for _, m := range smaps {
		if m.Rss == 0 || strings.HasPrefix(m.Path, "[v") || m.Flags.Has(procfs.VMDroppable) || m.Len() > 1<<30 {
			continue
		}
		for at := m.Start; at < m.End; at += pageSize {
			x, errX := pageAt(a, at)
			y, errY := pageAt(b, at)
			if !bytes.Equal(x, y) || (errX == nil) != (errY == nil) {
				t.Errorf("%x of %x-%x %s differs (%v, %v)", at, m.Start, m.End, m.Path, errX, errY)
				break
			}
		}
	}
}

func openMem(t *testing.T, pid int) *os.File {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func pageAt(f *os.File, at uint64) ([]byte, error) {
	b := make([]byte, pageSize)
	n, err := f.ReadAt(b, int64(at))
	return b[:n], err
}

// compareFields compares what the kernel knows about the memory.
func compareFields(t *testing.T, want, got int) {
	t.Helper()
	for _, name := range []string{"cmdline", "environ", "auxv"} {
		a, errA := os.ReadFile(fmt.Sprintf("/proc/%d/%s", want, name))
		b, errB := os.ReadFile(fmt.Sprintf("/proc/%d/%s", got, name))
		if errA != nil || errB != nil || !bytes.Equal(a, b) || len(a) == 0 {
			t.Errorf("%s: %q became %q (%v, %v)", name, a, b, errA, errB)
		}
	}
	exeA, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", want))
	exeB, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", got))
	if exeA != exeB || exeA == "" {
		t.Errorf("exe: %q became %q", exeA, exeB)
	}
	a, errA := procfs.Stat(want)
	b, errB := procfs.Stat(got)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	fa, fb := (&space{stat: a}).fields(), (&space{stat: b}).fields()
	if fa.String() != fb.String() {
		t.Errorf("fields: %v became %v", fa, fb)
	}
}

func TestRestore(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	d := dumpSubjects(t, l.pid)
	s := restoreInto(t, d.Image, l.pid)[0]
	compareLayouts(t, layout(t, l.pid), layout(t, s.pid))
	compareContents(t, l.pid, s.pid)
	compareFields(t, l.pid, s.pid)
	if n := openFiles(t, s.pid); n != s.files {
		t.Errorf("%d descriptors became %d", s.files, n)
	}
}

// TestRestoreAgain dumps what was restored: nothing may get lost on the way.
func TestRestoreAgain(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	first := restoreInto(t, dumpSubjects(t, l.pid).Image, l.pid)[0]
	h := harness(t, first.pid)
	h.Resources = withoutReserved(h.Resources)
	img, err := h.Dump()
	if err != nil {
		t.Fatal(err)
	}
	second := restoreInto(t, img, first.pid)[0]
	compareLayouts(t, layout(t, l.pid), layout(t, second.pid))
	compareContents(t, l.pid, second.pid)
	compareFields(t, l.pid, second.pid)
}

// withoutReserved drops the range of a seed's tracer.
func withoutReserved(all []sdk.Resource) []sdk.Resource {
	var out []sdk.Resource
	for _, r := range all {
		if r.VMA.Start != seedReserved.Start {
			out = append(out, r)
		}
	}
	return out
}

// TestRestoreSharing makes sure that shared memory is one object again, for
// two processes as well as within one.
func TestRestoreSharing(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "sharing")
	child := int(l.areas["child"].Start)
	d := dumpSubjects(t, l.pid, child)
	s := restoreInto(t, d.Image, l.pid, child)
	first := l.areas["common"]
	second := area{first.Start + 8*pageSize, first.End}
	sameMemory(t, "common", l.pid, s[0].pid, first)
	for _, seed := range s {
		compareLayouts(t, layout(t, map[int]int{s[0].pid: l.pid, s[1].pid: child}[seed.pid]), layout(t, seed.pid))
	}
	if _, err := s[0].mem.WriteAt([]byte("seen by both"), int64(second.Start)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 12)
	if _, err := s[1].mem.ReadAt(b, subjectBase); err != nil || string(b) != "seen by both" {
		t.Errorf("the other process sees %q, %v", b, err)
	}
}

// TestRestoreHugePages makes sure that memory gets huge pages again if it asks
// for them, and that what lanes fill is ordinary memory afterwards.
func TestRestoreHugePages(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	s := restoreInto(t, dumpSubjects(t, l.pid).Image, l.pid)[0]
	before, err := procfs.Smaps(l.pid)
	if err != nil {
		t.Fatal(err)
	}
	huge := map[uint64]uint64{}
	for _, m := range before {
		huge[m.Start] = m.AnonHugePages
	}
	after, err := procfs.Smaps(s.pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range after {
		if m.AnonHugePages != huge[m.Start] {
			t.Errorf("mapping %x-%x: %d bytes in huge pages became %d", m.Start, m.End, huge[m.Start], m.AnonHugePages)
		}
		if m.Flags&(procfs.VMUffdMissing|procfs.VMUffdWP|procfs.VMUffdMinor) != 0 {
			t.Errorf("mapping %x-%x is still registered: %s", m.Start, m.End, m.Flags)
		}
	}
}

// TestInquiry asks a task about its memory.
func TestInquiry(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	s := restoreInto(t, dumpSubjects(t, l.pid).Image, l.pid)[0]
	ask := func(want uint32) {
		t.Helper()
		q := newInquiry()
		o := s.run(&q.Tape)
		got, err := q.answer(&o)
		if err != nil || o.Err != nil {
			t.Fatal(err, o.Err)
		}
		if got.lockFuture != want || got.brk != l.areas["heap"].End || got.mdwe != 0 || got.merge {
			t.Errorf("%+v, want brk %x and lock %d", got, l.areas["heap"].End, want)
		}
	}
	before := layout(t, s.pid)
	ask(0)
	compareLayouts(t, before, layout(t, s.pid))
	for _, flags := range []uint32{unix.MCL_FUTURE, unix.MCL_FUTURE | unix.MCL_ONFAULT} {
		sc := newScript()
		sc.setModes(&mmpb.AddressSpace{LockFuture: flags})
		if o := s.run(sc.tape); o.Err != nil {
			t.Fatal(o.Err)
		}
		ask(flags)
	}
}

func TestRestoreRefusesDamage(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "idle")
	img, err := harness(t, l.pid).Dump()
	if err != nil {
		t.Fatal(err)
	}
	// The image ends before the pages that a record promises.
	if err := img.File().Truncate(1 << 16); err != nil {
		t.Fatal(err)
	}
	s := startSeed(t, img.File())
	tr := tree(l.pid)
	tr.Processes[0].PID, tr.Processes[0].Reserved = s.pid, s.reserved
	host := &sdktest.Host{Tapes: func(r tape.Run) tape.Outcome { return s.run(r.Tape) }}
	h := sdktest.New(t, New(), sdktest.Config{Tree: tr, Host: host, ImageFD: seedImageFD, PluginFD: seedPluginFD, Timeout: patience})
	if _, err := h.Restore(img, wire.PhaseRestoreMemory); err == nil {
		t.Error("restored from an image that ends early")
	}
}
