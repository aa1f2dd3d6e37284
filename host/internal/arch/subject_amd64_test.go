package arch

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

const deadline = 10 * time.Second

// buildSubject compiles the subject once per run of the tests.
var buildSubject = sync.OnceValues(func() (string, error) {
	path := filepath.Join(testDir, "subject")
	cmd := exec.Command("gcc", "-O1", "-o", path, "testdata/subject.c", "testdata/hold_"+runtime.GOARCH+".S")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build subject: %w\n%s", err, out)
	}
	return path, nil
})

var testDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "firn-arch")
	if err != nil {
		panic(err)
	}
	testDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// subject is a child that is traced by the test's thread.
type subject struct {
	t      *testing.T
	tid    int
	mem    *os.File
	stdin  io.WriteCloser
	out    *bufio.Reader
	goAddr uint64
	cmd    *exec.Cmd
}

func startSubject(t *testing.T, mode ...string) *subject {
	t.Helper()
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	_, err := exec.LookPath("gcc")
	gate.Feature(t, "gcc", err == nil)
	path, err := buildSubject()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	s := &subject{t: t, cmd: exec.Command(path, mode...)}
	stdout, err := s.cmd.StdoutPipe()
	check(t, err)
	s.stdin, err = s.cmd.StdinPipe()
	check(t, err)
	check(t, s.cmd.Start())
	s.tid = s.cmd.Process.Pid
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.mem.Close()
	})
	s.out = bufio.NewReader(stdout)
	line, err := s.out.ReadString('\n')
	check(t, err)
	_, err = fmt.Sscanf(line, "ready %x", &s.goAddr)
	check(t, err)
	s.mem, err = os.OpenFile(fmt.Sprintf("/proc/%d/mem", s.tid), os.O_RDWR, 0)
	check(t, err)
	s.settle(mode[0])
	return s
}

// settle waits until the subject does what it was told to.
func (s *subject) settle(mode string) {
	s.t.Helper()
	time.Sleep(20 * time.Millisecond)
	if mode == "hold" {
		return
	}
	s.eventually("sleep", s.asleep)
}

func (s *subject) asleep() bool {
	s.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.tid))
	check(s.t, err)
	return bytes.Contains(stat, []byte(") S "))
}

func (s *subject) seize() {
	s.t.Helper()
	check(s.t, unix.PtraceSeize(s.tid))
	s.interrupt()
}

func (s *subject) interrupt() {
	s.t.Helper()
	check(s.t, unix.PtraceInterrupt(s.tid))
	if st := s.wait(); int(st)>>16 != unix.PTRACE_EVENT_STOP {
		s.t.Fatalf("stop %#x, want an event stop", st)
	}
}

func (s *subject) wait() unix.WaitStatus {
	s.t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		var st unix.WaitStatus
		tid, err := unix.Wait4(s.tid, &st, unix.WNOHANG|unix.WALL, nil)
		check(s.t, err)
		if tid == s.tid {
			if !st.Stopped() {
				s.t.Fatalf("the subject ended: %#x", st)
			}
			return st
		}
	}
	s.t.Fatal("the subject did not stop")
	return 0
}

func (s *subject) detach() {
	s.t.Helper()
	check(s.t, unix.PtraceDetach(s.tid))
}

// state is all that a checkpoint keeps of a thread.
type state struct {
	regs   Regs
	xstate []byte
	mask   uint64
}

func (s *subject) state() state {
	s.t.Helper()
	regs, err := GetRegs(s.tid)
	check(s.t, err)
	x, err := GetXState(s.tid)
	check(s.t, err)
	check(s.t, CheckXState(x))
	return state{regs: regs, xstate: x, mask: s.mask()}
}

func (s *subject) mask() uint64 {
	s.t.Helper()
	mask := make([]byte, 8)
	s.ptrace(unix.PTRACE_GETSIGMASK, 8, mask)
	return binary.LittleEndian.Uint64(mask)
}

func (s *subject) blockSignals() {
	s.t.Helper()
	s.ptrace(unix.PTRACE_SETSIGMASK, 8, bytes.Repeat([]byte{0xff}, 8))
}

func (s *subject) setRegs(r Regs) {
	s.t.Helper()
	check(s.t, SetRegs(s.tid, &r))
}

func (s *subject) write(addr uint64, b []byte) {
	s.t.Helper()
	_, err := s.mem.WriteAt(b, int64(addr))
	check(s.t, err)
}

func (s *subject) read(addr uint64, n int) []byte {
	s.t.Helper()
	b := make([]byte, n)
	_, err := s.mem.ReadAt(b, int64(addr))
	check(s.t, err)
	return b
}

// finish lets the subject end and returns what it printed; the subject itself
// says whether it was disturbed.
func (s *subject) finish() string {
	s.t.Helper()
	// Only "hold" waits for this; others may have ended already.
	s.mem.WriteAt([]byte{1}, int64(s.goAddr))
	timer := time.AfterFunc(deadline, func() { s.cmd.Process.Kill() })
	defer timer.Stop()
	out, err := io.ReadAll(s.out)
	check(s.t, err)
	if err := s.cmd.Wait(); err != nil {
		s.t.Fatalf("subject: %v\n%s", err, out)
	}
	return string(out)
}

type mapping struct {
	start, end uint64
	perm, name string
}

func (s *subject) maps() []mapping {
	s.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.tid))
	check(s.t, err)
	var all []mapping
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		lo, hi, _ := strings.Cut(f[0], "-")
		m := mapping{perm: f[1], name: f[len(f)-1]}
		m.start, _ = strconv.ParseUint(lo, 16, 64)
		m.end, _ = strconv.ParseUint(hi, 16, 64)
		all = append(all, m)
	}
	return all
}

// gadget returns the vdso's address and a sigreturn in the subject's text.
func (s *subject) gadget() (vdso, sigreturn uint64) {
	s.t.Helper()
	for _, m := range s.maps() {
		if m.name == "[vdso]" {
			vdso = m.start
		}
		if sigreturn != 0 || !strings.HasPrefix(m.perm, "r-x") {
			continue
		}
		if off := FindSigreturn(s.read(m.start, int(m.end-m.start))); off >= 0 {
			sigreturn = m.start + uint64(off)
		}
	}
	if vdso == 0 || sigreturn == 0 {
		s.t.Fatalf("vdso %#x, sigreturn %#x", vdso, sigreturn)
	}
	return vdso, sigreturn
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
