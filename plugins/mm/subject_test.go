package mm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// The environment of a subject: what it does, and a directory for its files.
const (
	envSubject = "FIRN_MM_SUBJECT"
	envDir     = "FIRN_MM_DIR"
	envFile    = "FIRN_MM_FILE"
)

func TestMain(m *testing.M) {
	if kind := os.Getenv(envSubject); kind != "" {
		if err := runSubject(kind); err != nil {
			fmt.Fprintln(os.Stderr, "subject:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// area is memory that a subject has set up.
type area struct{ Start, End uint64 }

// subjectBase is where areas start, clear of everything that the Go runtime maps,
// also with the race detector.
const subjectBase = 0x1000_0000_0000

// subject sets up memory in its own process.
type subject struct {
	Areas map[string]area
	next  uint64
	dir   string
}

// runSubject is the main function of a subject: it says where its areas are and
// waits until its input ends.
func runSubject(kind string) error {
	s := &subject{Areas: map[string]area{}, next: subjectBase, dir: os.Getenv(envDir)}
	build, ok := map[string]func(*subject) error{
		"idle": func(*subject) error { return nil }, "zoo": (*subject).zoo, "big": (*subject).big,
		"cow": (*subject).cow, "refused": (*subject).refused,
		"sharing": (*subject).sharing, "sharer": (*subject).sharer,
	}[kind]
	if !ok {
		return fmt.Errorf("no subject %q", kind)
	}
	if err := build(s); err != nil {
		return err
	}
	b, err := json.Marshal(s.Areas)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", b)
	buf := make([]byte, 1)
	_, _ = os.Stdin.Read(buf)
	return nil
}

// raw makes a system call and returns its errno as an error.
func raw(name string, nr uintptr, args ...uint64) (uint64, error) {
	var a [6]uintptr
	for i, v := range args {
		a[i] = uintptr(v)
	}
	r, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return 0, fmt.Errorf("%s: %w", name, errno)
	}
	return uint64(r), nil
}

// mapAt maps the next area, with a gap before it. fd is -1 for none.
func (s *subject) mapAt(name string, npages uint64, prot, flags, fd int) (area, error) {
	a := area{s.next, s.next + npages*pageSize}
	s.next = (a.End + 64<<20) &^ (2<<20 - 1)
	s.Areas[name] = a
	if fd < 0 {
		flags |= unix.MAP_ANONYMOUS
	}
	_, err := raw("mmap "+name, unix.SYS_MMAP, a.Start, a.End-a.Start, uint64(prot), uint64(flags|unix.MAP_FIXED_NOREPLACE), uint64(fd), 0)
	return a, err
}

// page is the memory of page n of the area.
func (a area) page(n int) []byte {
	at := uintptr(a.Start + uint64(n)*pageSize)
	return unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), pageSize)
}

// fill writes a pattern into some pages, which differs from page to page.
func (a area) fill(from, to int) {
	for n := from; n < to; n++ {
		b := a.page(n)
		for i := range b {
			b[i] = byte(a.Start>>21) + byte(n)*7 + byte(i) | 1
		}
	}
}

func (a area) call(name string, nr uintptr, arg int) error {
	_, err := raw(name, nr, a.Start, a.End-a.Start, uint64(arg))
	return err
}

func (a area) advise(advice int) error {
	return a.call(fmt.Sprintf("madvise %d", advice), unix.SYS_MADVISE, advice)
}
func (a area) protect(prot int) error { return a.call("mprotect", unix.SYS_MPROTECT, prot) }

// live is a subject that runs.
type live struct {
	cmd   *exec.Cmd
	pid   int
	areas map[string]area
}

// needTracing are the rights that reading another process's memory takes.
func needTracing(t testing.TB) {
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	gate.Cap(t, unix.CAP_CHECKPOINT_RESTORE)
}

// startSubject starts a subject and stops it by SIGSTOP.
func startSubject(t testing.TB, kind string) *live {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	if exe, err := os.Executable(); err == nil {
		cmd.Path = exe
	}
	cmd.Env = append(os.Environ(), envSubject+"="+kind, envDir+"="+t.TempDir(), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("subject %s did not start: %v", kind, err)
	}
	l := &live{cmd: cmd, pid: cmd.Process.Pid, areas: map[string]area{}}
	if err := json.Unmarshal(line, &l.areas); err != nil {
		t.Fatal(err)
	}
	l.stop(t)
	return l
}

// stop stops every thread of the subject.
func (l *live) stop(t testing.TB) {
	t.Helper()
	if err := l.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if l.allStopped(t) {
			return
		}
	}
	t.Fatal("subject does not stop")
}

func (l *live) allStopped(t testing.TB) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", l.pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", l.pid, e.Name()))
		if err != nil {
			return false
		}
		if st, err := procfs.ParseStat(b); err != nil || st.State != 'T' {
			return false
		}
	}
	return true
}

// resources are all mappings of processes, as the host would give them.
func resources(t testing.TB, pids ...int) []sdk.Resource {
	t.Helper()
	var out []sdk.Resource
	for _, pid := range pids {
		maps, err := procfs.Maps(pid)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range maps {
			out = append(out, sdk.Resource{Kind: sdk.KindVMA, Object: uint64(len(out) + 1), Task: sdk.TaskID(pid),
				VMA: &sdk.VMA{AddrRange: sdk.AddrRange{Start: m.Start, End: m.End}, Perm: m.Perm, Path: m.Path}})
		}
	}
	return out
}

// tree is a tree of unrelated processes.
func tree(pids ...int) *sdk.Tree {
	tr := &sdk.Tree{Root: sdk.TaskID(pids[0])}
	for _, pid := range pids {
		tr.Processes = append(tr.Processes, sdk.Process{ID: sdk.TaskID(pid), PID: pid,
			Threads: []sdk.Thread{{ID: sdk.TaskID(pid), TID: pid}}})
	}
	return tr
}

// memoryOf reads a range of another process.
func memoryOf(t testing.TB, pid int, a area) []byte {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, a.End-a.Start)
	if _, err := f.ReadAt(b, int64(a.Start)); err != nil {
		t.Fatalf("memory %x-%x of %d: %v", a.Start, a.End, pid, err)
	}
	return b
}

// sameMemory compares a range of two processes.
func sameMemory(t testing.TB, name string, pid1, pid2 int, a area) {
	t.Helper()
	if !bytes.Equal(memoryOf(t, pid1, a), memoryOf(t, pid2, a)) {
		t.Errorf("%s: memory %x-%x differs", name, a.Start, a.End)
	}
}
