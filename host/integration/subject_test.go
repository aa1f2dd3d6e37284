package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/firn-cr/firn/host/integration/harness"
)

// grace is how long processes that should be gone may need to go.
const grace = 5 * time.Second

// subject is a harness.Subject whose failures end the test.
type subject struct {
	*harness.Subject
	t     *testing.T
	image string
}

// workDir is a directory that other users can enter.
func workDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// start starts a program; the test's end sweeps it.
func start(t *testing.T, spec harness.Spec) *subject {
	t.Helper()
	if spec.Dir == "" {
		spec.Dir = workDir(t)
	}
	s, err := harness.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			tail(t, s)
		}
		if err := s.Sweep(); err != nil {
			t.Error(err)
		}
	})
	return &subject{Subject: s, t: t, image: filepath.Join(workDir(t), "image.firn")}
}

// tail shows the end of what a subject wrote.
func tail(t *testing.T, s *harness.Subject) {
	for _, name := range []string{"log", "out"} {
		lines, _ := s.Lines(name)
		if n := len(lines); n > 15 {
			lines = lines[n-15:]
		}
		if len(lines) > 0 {
			t.Logf("%s of subject %d:\n%s", name, s.PID, strings.Join(lines, "\n"))
		}
	}
	t.Logf("processes of subject %d: %+v; the one that was started: %v", s.PID, s.Tree(), s.Exited(0))
}

// startC starts a subject in C, and waits until it is ready and ticks.
func startC(t *testing.T, name string, args ...string) *subject {
	t.Helper()
	s := start(t, harness.Spec{Path: cSubject(t, name), Args: args})
	s.ready()
	return s
}

// cSubject is the program of a subject in C.
func cSubject(t *testing.T, name string) string {
	t.Helper()
	p, err := subjects()
	if err != nil {
		t.Fatal(err)
	}
	path, err := p.CSubject(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// beside runs a program beside a test, which ends it.
func beside(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program(t, name), args...)
	wait, err := harness.Begin(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = wait()
	})
	return cmd
}

// startGo starts a subject in Go.
func startGo(t *testing.T, name string, args ...string) *subject {
	t.Helper()
	p, err := subjects()
	if err != nil {
		t.Fatal(err)
	}
	path, err := p.GoSubject(name)
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, harness.Spec{Path: path, Args: args})
	s.ready()
	return s
}

// program finds a program of the system.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := harness.Program(name)
	if err != nil {
		t.Fatalf("%v: make deps installs what the tests need", err)
	}
	return path
}

// script is the path of a subject in Python.
func script(t *testing.T, name string) string {
	t.Helper()
	p, err := subjects()
	if err != nil {
		t.Fatal(err)
	}
	return p.Source("py/" + name)
}

func startCounter(t *testing.T) *subject {
	t.Helper()
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "counter.py")}})
	s.ready()
	return s
}

// ready waits until the subject is set up and ticks.
func (s *subject) ready() {
	s.t.Helper()
	s.line("ready")
	s.ticks(2)
}

func (s *subject) line(prefix string) string {
	s.t.Helper()
	line, err := s.WaitLine(prefix)
	if err != nil {
		s.t.Fatal(err)
	}
	return line
}

// ticks waits until the subject found itself right count times more.
func (s *subject) ticks(count int) {
	s.t.Helper()
	if err := s.WaitTicks(count); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subject) ask(name string) {
	s.t.Helper()
	if err := s.Ask(name); err != nil {
		s.t.Fatal(err)
	}
}

// last is the number of the last tick.
func (s *subject) last() int {
	s.t.Helper()
	n, err := s.Ticks()
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// unharmed requires that the program goes on and that no task is stopped.
func (s *subject) unharmed() {
	s.t.Helper()
	s.ticks(3)
	if d := s.Disturbed(); len(d) > 0 {
		s.t.Fatalf("subject %d was left disturbed: %v", s.PID, d)
	}
}

// shape is what must be the same after a restore.
func (s *subject) shape() []string {
	s.t.Helper()
	var lines []string
	for _, p := range s.Tree() {
		lines = append(lines, fmt.Sprintf("%d parent %d group %d session %d %q", p.PID, p.Parent, p.Group, p.Session, p.Comm))
	}
	return lines
}

// threads are the thread ids that stay over a while.
func (s *subject) threads() []int {
	var stable []int
	for i := range 6 {
		var now []int
		for _, p := range s.Tree() {
			now = append(now, p.Threads...)
		}
		if i == 0 {
			stable = now
		}
		stable = slices.DeleteFunc(stable, func(tid int) bool { return !slices.Contains(now, tid) })
		time.Sleep(5 * time.Millisecond)
	}
	return stable
}

// pids are the processes of the tree.
func (s *subject) pids() []int {
	var pids []int
	for _, p := range s.Tree() {
		pids = append(pids, p.PID)
	}
	return pids
}

// checkpoint saves the tree and requires that it ended, or that it runs with
// --leave-running.
func (s *subject) checkpoint(args ...string) harness.Checkpoint {
	s.t.Helper()
	pids := s.pids()
	args = append([]string{"checkpoint", strconv.Itoa(s.PID), "-o", s.image, "--json"}, args...)
	res := want(s.t, harness.StatusDone, firn(s.t), args...)
	var c harness.Checkpoint
	if err := res.Decode(&c); err != nil {
		s.t.Fatal(err)
	}
	if c.RootPID != s.PID || c.Image != s.image {
		s.t.Errorf("result names process %d and image %q, want %d and %q", c.RootPID, c.Image, s.PID, s.image)
	}
	if slices.Contains(args, "--leave-running") {
		return c
	}
	for _, pid := range pids {
		if harness.Exists(pid) {
			s.t.Errorf("process %d still exists although checkpoint returned", pid)
		}
	}
	s.Forget()
	s.only(s.image)
	return c
}

// only requires that nothing lies beside the image: no temporary file.
func (s *subject) only(image string) {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Dir(image))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(image) {
			s.t.Errorf("%s lies beside the image", e.Name())
		}
	}
}

// restore brings the tree back and requires that it runs.
func (s *subject) restore(args ...string) harness.Restore {
	s.t.Helper()
	res := want(s.t, harness.StatusDone, firn(s.t), append([]string{"restore", "-d", "--json", s.image}, args...)...)
	var r harness.Restore
	if err := res.Decode(&r); err != nil {
		s.t.Fatal(err)
	}
	if r.RootPID != s.PID {
		s.t.Errorf("restored as process %d, was %d", r.RootPID, s.PID)
	}
	return r
}

// survives lets a checkpoint go by, and lives on in two images, one after the other.
// Both are taken with the flags.
func (s *subject) survives(flags ...string) {
	s.t.Helper()
	s.checkpoint(append([]string{"--leave-running"}, flags...)...)
	s.unharmed()
	for range 2 {
		s.cycle(flags...)
		s.unharmed()
	}
}

// cycle is a checkpoint and a restore; ids and relations must be the same.
func (s *subject) cycle(flags ...string) {
	s.t.Helper()
	shape, threads := s.shape(), s.threads()
	s.checkpoint(flags...)
	s.restore()
	if now := s.shape(); !slices.Equal(shape, now) {
		s.t.Errorf("processes after the restore:\n%s\nbefore:\n%s", strings.Join(now, "\n"), strings.Join(shape, "\n"))
	}
	now := s.threads()
	for _, tid := range threads {
		if !slices.Contains(now, tid) {
			s.t.Errorf("thread %d is missing after the restore; there are %v", tid, now)
		}
	}
}
