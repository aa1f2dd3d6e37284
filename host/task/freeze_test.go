package task

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

// subject is a C program that verifies itself and prints a line per round.
type subject struct {
	cmd *exec.Cmd
	out *bufio.Reader
}

func buildSubject(t *testing.T, name string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	out, err := exec.Command("gcc", "-O1", "-pthread", "-mavx2", "-o", bin, filepath.Join("testdata", name+".c")).CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return bin
}

func startSubject(t *testing.T, argv ...string) *subject {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	s := &subject{cmd, bufio.NewReader(pipe)}
	s.line(t)
	return s
}

func (s *subject) pid() HostPID { return HostPID(s.cmd.Process.Pid) }

// line reads the next line that the subject prints.
func (s *subject) line(t *testing.T) string {
	t.Helper()
	type result struct {
		text string
		err  error
	}
	ch := make(chan result, 1)
	go func() {
		text, err := s.out.ReadString('\n')
		ch <- result{text, err}
	}()
	select {
	case r := <-ch:
		if r.err != nil {
			t.Fatalf("subject: %v", r.err)
		}
		if strings.HasPrefix(r.text, "BAD") {
			t.Fatalf("subject: %s", r.text)
		}
		return strings.TrimSpace(r.text)
	case <-time.After(10 * time.Second):
		t.Fatal("subject does not go on")
		return ""
	}
}

// goesOn waits until the subject has completed rounds that began after now.
func (s *subject) goesOn(t *testing.T) {
	t.Helper()
	for buffered := s.out.Buffered(); buffered >= 0; {
		buffered -= len(s.line(t)) + 1
	}
	s.line(t)
	s.line(t)
}

func newTracer(t *testing.T) *Tracer {
	t.Helper()
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	tr, err := NewTracer(hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

func freeze(t *testing.T, tr *Tracer, pid HostPID) *Frozen {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	f, err := Freeze(ctx, tr, pid, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Thaw(context.Background()) })
	return f
}

func states(t *testing.T, pid HostPID) string {
	t.Helper()
	var out []string
	tids, err := threadsOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, tid := range tids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		out = append(out, rest[:1])
	}
	return strings.Join(out, "")
}

func TestFreezeAndThawManyTimes(t *testing.T) {
	tr := newTracer(t)
	s := startSubject(t, buildSubject(t, "steady"), "4")
	for range 30 {
		f := freeze(t, tr, s.pid())
		if st := states(t, s.pid()); strings.Trim(st, "t") != "" {
			t.Fatalf("states while frozen: %s", st)
		}
		if len(f.Processes) != 1 || len(f.Processes[0].Threads) != 5 {
			t.Fatalf("tree %+v", f.Processes)
		}
		if err := f.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s.goesOn(t)
	if st := states(t, s.pid()); strings.ContainsAny(st, "tT") {
		t.Errorf("states after the thaw: %s", st)
	}
}

// TestTapesInALiveTree runs tapes in every thread of a program that checks its
// registers, AVX state, memory and signal mask.
func TestTapesInALiveTree(t *testing.T) {
	tr := newTracer(t)
	s := startSubject(t, buildSubject(t, "steady"), "4")
	before := 0
	for round := range 60 {
		if round == 20 { // the program itself has touched what it uses by now
			before = rssAnon(t, s.pid())
		}
		f := freeze(t, tr, s.pid())
		runs, refs := tapesFor(f)
		out, err := f.RunTapes(t.Context(), runs)
		if err != nil {
			t.Fatal(err)
		}
		for i := range out {
			if out[i].Err != nil {
				t.Fatalf("round %d: tape of task %d: %v", round, runs[i].TID, out[i].Err)
			}
			if tid, err := out[i].Value(refs[i]); err != nil || int(tid) != runs[i].TID {
				t.Fatalf("gettid in task %d: %d, %v", runs[i].TID, tid, err)
			}
		}
		if err := f.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.goesOn(t)
	}
	if after := rssAnon(t, s.pid()); after > before+32 {
		t.Errorf("anonymous memory grew from %d to %d KiB", before, after)
	}
	if maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.pid())); strings.Contains(string(maps), "rwxs") {
		t.Errorf("a tape region stays:\n%s", maps)
	}
}

func tapesFor(f *Frozen) ([]tape.Run, []tape.Result) {
	var runs []tape.Run
	var refs []tape.Result
	for _, p := range f.Processes {
		for _, th := range p.Threads {
			tp := &tape.Tape{}
			old := tp.Buffer(32)
			refs = append(refs, tp.Call(unix.SYS_GETTID))
			tp.Call(unix.SYS_RT_SIGACTION, tape.Imm(10), tape.Imm(0), old.Arg(), tape.Imm(8))
			tp.Try(unix.SYS_CLOSE, tape.Imm(-1))
			runs = append(runs, tape.Run{TID: int(th.TID), Tape: tp})
		}
	}
	return runs, refs
}

func rssAnon(t *testing.T, pid HostPID) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFailingTapes(t *testing.T) {
	tr := newTracer(t)
	s := startSubject(t, buildSubject(t, "steady"), "0")
	f := freeze(t, tr, s.pid())
	tp := &tape.Tape{}
	tp.Call(unix.SYS_GETPID)
	tp.Call(unix.SYS_CLOSE, tape.Imm(-1))
	tp.Call(unix.SYS_GETPID)
	out, err := f.RunTapes(t.Context(), []tape.Run{{TID: int(s.pid()), Tape: tp}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "tape call 1 (syscall 3): bad file descriptor"; out[0].Err == nil || out[0].Err.Error() != want {
		t.Errorf("error %v, want %s", out[0].Err, want)
	}
	if len(out[0].Results) != 2 {
		t.Errorf("results %v, want two", out[0].Results)
	}
	long := &tape.Tape{}
	first := long.Call(unix.SYS_GETPID)
	for range 20000 {
		long.Call(unix.SYS_KILL, first.Arg(), tape.Imm(0))
	}
	out, err = f.RunTapes(t.Context(), []tape.Run{{TID: int(s.pid()), Tape: long}})
	if err != nil || out[0].Err != nil || len(out[0].Results) != 20001 {
		t.Errorf("long tape: %v, %v, %d results", err, out[0].Err, len(out[0].Results))
	}
	if err := f.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.goesOn(t)
}

// TestCanceledTapes cancels the context at any moment of the first injection and
// of the tapes, while another caller looks into the threads: the program goes
// on, and nothing of ours stays in it.
func TestCanceledTapes(t *testing.T) {
	tr := newTracer(t)
	s := startSubject(t, buildSubject(t, "steady"), "3")
	for round := range 150 {
		f := freeze(t, tr, s.pid())
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(round*5)*time.Microsecond, cancel)
		looked := make(chan error, 1)
		go func() {
			_, err := f.Trace(t.Context(), []int{int(s.pid())})
			looked <- err
		}()
		runs, _ := tapesFor(f)
		_, _ = f.RunTapes(ctx, runs) // canceled or not: both are fine
		if err := <-looked; err != nil {
			t.Fatal(err)
		}
		if err := f.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		if round%10 == 0 {
			s.goesOn(t)
		}
	}
	s.goesOn(t)
	if maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.pid())); strings.Contains(string(maps), "rwxs") {
		t.Errorf("a tape region stays:\n%s", maps)
	}
}
