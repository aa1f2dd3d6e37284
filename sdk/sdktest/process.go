package sdktest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// FirnProgram is the environment variable with the firn that runs the plugin, if
// it is not the one in the PATH.
const FirnProgram = "FIRN"

// patience bounds every wait for a program.
const patience = time.Minute

// conformProcess builds the plugin's program, has firn start and describe it, and
// checkpoints and restores a program with it.
func conformProcess(t *testing.T, c *Conformance) {
	firn := os.Getenv(FirnProgram)
	if firn == "" {
		firn, _ = exec.LookPath("firn")
	}
	gate.Feature(t, "firn in the PATH, or in the environment variable "+FirnProgram, firn != "")
	d := c.Plugin().Describe()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "firn-plugin-"+d.Name), ".")
	build.Dir = c.Program
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	f := &firnRun{program: firn, env: append(os.Environ(), "FIRN_PLUGIN_PATH="+dir)}
	out := f.run(t, "plugin", "describe", d.Name, "--json")
	var told struct {
		Name, Version string
		Claims        []json.RawMessage
	}
	if err := json.Unmarshal(out, &told); err != nil || told.Name != d.Name || told.Version != d.Version || len(told.Claims) != len(d.Claims) {
		t.Errorf("firn plugin describe says %s (%v)", out, err)
	}
	if c.Subject == nil {
		return
	}
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	s := startProgram(t, c.Subject)
	s.goesOn(t)
	image := filepath.Join(dir, "image.firn")
	for range 2 {
		f.run(t, append([]string{"checkpoint", fmt.Sprint(s.pid), "-o", image}, c.Flags...)...)
		s.ended(t)
		f.run(t, "restore", "-d", image)
		s.goesOn(t)
	}
}

// firnRun runs firn.
type firnRun struct {
	program string
	env     []string
}

func (f *firnRun) run(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(f.program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env, cmd.WaitDelay = &stdout, &stderr, f.env, patience
	if err := cmd.Run(); err != nil {
		t.Fatalf("firn %s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.Bytes()
}

// runningProgram is the subject, before and after a restore.
type runningProgram struct {
	pid int
	log string
}

// startProgram starts a subject in a session of its own; the end of the test ends it.
func startProgram(t *testing.T, args []string) *runningProgram {
	t.Helper()
	dir := t.TempDir()
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// What this process has inherited itself, the subject must not: firn would find
	// it open outside of the tree.
	const firstOwn = 3
	if err := unix.CloseRange(firstOwn, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		t.Fatalf("sdktest: mark descriptors: %v", err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &runningProgram{pid: cmd.Process.Pid, log: filepath.Join(dir, "log")}
	go func() { _ = cmd.Wait() }() // or its number stays taken
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(out.Name())
			t.Logf("the subject has printed:\n%s", text)
		}
		_ = unix.Kill(s.pid, unix.SIGKILL)
		s.ended(t)
	})
	return s
}

// lines counts the lines of the log, of which none may say that something is bad.
func (s *runningProgram) lines(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("bad")) {
			t.Fatalf("the subject says: %s", line)
		}
	}
	return bytes.Count(text, []byte("\n"))
}

// goesOn waits until the subject has found itself right some times more.
func (s *runningProgram) goesOn(t *testing.T) {
	t.Helper()
	const more = 3
	for before, deadline := s.lines(t), time.Now().Add(patience); s.lines(t) < before+more; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the subject does not go on")
		}
	}
}

// ended waits until the subject is gone.
func (s *runningProgram) ended(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(patience); !errors.Is(unix.Kill(s.pid, 0), unix.ESRCH); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not end", s.pid)
		}
	}
}
