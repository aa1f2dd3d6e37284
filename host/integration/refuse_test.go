package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
)

// blocker is a descriptor of a subject that cannot be carried.
type blocker struct {
	fd   int
	name string
}

// startBlockers starts a program that has what is named, as far as the kernel
// has it.
func startBlockers(t *testing.T, names ...string) (*subject, []blocker) {
	t.Helper()
	s := startC(t, "blockers", names...)
	lines, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	var found []blocker
	for _, line := range lines {
		var b blocker
		if _, err := fmt.Sscanf(line, "fd %d %s", &b.fd, &b.name); err == nil {
			found = append(found, b)
		}
		if strings.HasPrefix(line, "unavailable") {
			t.Log(line)
		}
	}
	return s, found
}

// refused requires exit status 3 from a checkpoint that changes nothing, and
// returns the lines of the report.
func (s *subject) refused(args ...string) []string {
	s.t.Helper()
	args = append([]string{"checkpoint", strconv.Itoa(s.PID), "-o", s.image}, args...)
	res := want(s.t, harness.StatusRefused, firn(s.t), args...)
	if _, err := os.Lstat(s.image); err == nil {
		s.t.Errorf("an image was written although the checkpoint was refused")
	}
	s.only(s.image)
	s.unharmed()
	return strings.Split(strings.TrimSpace(res.Stderr), "\n")
}

// names requires exactly one line that tells of the descriptor.
func names(t *testing.T, lines []string, pid int, b blocker) {
	t.Helper()
	count := 0
	for _, line := range lines {
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" :,()\"", r) })
		fd, task := false, false
		for i, w := range words {
			fd = fd || w == "fd" && i+1 < len(words) && words[i+1] == strconv.Itoa(b.fd)
			task = task || w == strconv.Itoa(pid)
		}
		if fd && task {
			count++
		}
	}
	if count != 1 {
		t.Errorf("fd %d (%s) of process %d is named in %d lines, want 1:\n%s", b.fd, b.name, pid, count, strings.Join(lines, "\n"))
	}
}

// TestBlockers: what cannot be carried is refused by name, all of it at once,
// before anything is written, and the program goes on.
func TestBlockers(t *testing.T) {
	for _, kinds := range [][]string{
		{"pty"}, {"tcp"}, {"inotify"}, {"io_uring"}, {"userfaultfd"}, {"packet"},
		{"pty", "tcp", "inotify", "io_uring", "userfaultfd", "packet"},
	} {
		t.Run(strings.Join(kinds, " "), func(t *testing.T) {
			needs(t)
			s, blockers := startBlockers(t, kinds...)
			if len(blockers) == 0 {
				t.Skipf("this kernel has no %v", kinds)
			}
			lines := s.refused()
			for _, b := range blockers {
				names(t, lines, s.PID, b)
			}
			// The same report without trying.
			res := want(t, harness.StatusRefused, firn(t), "check", strconv.Itoa(s.PID))
			for _, b := range blockers {
				if !strings.Contains(res.Stdout, fmt.Sprintf("fd %d ", b.fd)) {
					t.Errorf("firn check does not tell of fd %d (%s):\n%s", b.fd, b.name, res.Stdout)
				}
			}
			s.unharmed()
		})
	}
}

// TestFlagNamed: the report names the flag that helps.
func TestFlagNamed(t *testing.T) {
	s, _ := startBlockers(t, "tcp")
	lines := s.refused()
	if !strings.Contains(strings.Join(lines, "\n"), "established TCP connection 127.0.0.1:") {
		t.Errorf("the connection is not described:\n%s", strings.Join(lines, "\n"))
	}
}

// TestTerminal: a program on a terminal is refused and goes on.
func TestTerminal(t *testing.T) {
	needs(t)
	master, slave := openTerminal(t)
	s := start(t, harness.Spec{Path: cSubject(t, "tick"), Files: [3]*os.File{slave, slave, slave}, Terminal: true})
	_ = slave.Close()
	s.ready()
	lines := s.refused()
	if len(lines) == 0 || !strings.Contains(strings.Join(lines, "\n"), "/dev/pts/") {
		t.Errorf("the terminal is not named:\n%s", strings.Join(lines, "\n"))
	}
	if err := s.Sweep(); err != nil {
		t.Error(err)
	}
	_ = master.Close()
}

// openTerminal returns both ends of a pseudo-terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// TestReplacedProgram: an image is refused while the program's file is another
// one, and restored when the right one is back.
func TestReplacedProgram(t *testing.T) {
	needs(t)
	p, err := subjects()
	if err != nil {
		t.Fatal(err)
	}
	var builds [2]string
	for i := range builds {
		if builds[i], err = p.CSubject("tick", fmt.Sprintf("-DBUILD=%d", i), "-Wl,--build-id"); err != nil {
			t.Fatal(err)
		}
	}
	dir := workDir(t)
	exe, kept := filepath.Join(dir, "program"), filepath.Join(dir, "kept")
	install(t, builds[0], exe)
	s := start(t, harness.Spec{Path: exe})
	s.ready()
	s.checkpoint()

	if err := os.Rename(exe, kept); err != nil {
		t.Fatal(err)
	}
	install(t, builds[1], exe)
	s.notRestored(harness.StatusFailed, exe)

	if err := os.Rename(kept, exe); err != nil {
		t.Fatal(err)
	}
	s.restore()
	s.unharmed()
}

// install copies a program.
func install(t *testing.T, from, to string) {
	t.Helper()
	if out, err := harness.Output(grace, exec.Command(program(t, "install"), "-m", "755", from, to)); err != nil {
		t.Fatal(out, err)
	}
}

// notRestored requires that a restore fails before it creates any task, with a
// message that has every one of the words.
func (s *subject) notRestored(status int, words ...string) harness.Result {
	s.t.Helper()
	return s.notRestoredBy(firn(s.t), status, words...)
}

func (s *subject) notRestoredBy(f harness.Firn, status int, words ...string) harness.Result {
	s.t.Helper()
	ticks := s.last()
	res := run(s.t, f, "restore", "-d", s.image)
	if res.Status != status {
		s.t.Fatalf("want status %d: %s", status, res)
	}
	for _, w := range words {
		if !strings.Contains(res.Stderr, w) {
			s.t.Errorf("%q is not in the message: %s", w, res)
		}
	}
	if left := harness.Marked(s.Mark); len(left) > 0 || harness.Exists(s.PID) {
		s.t.Errorf("processes exist after a refused restore: %v", left)
	}
	if now := s.last(); now != ticks {
		s.t.Errorf("the program ran during a refused restore: tick %d, was %d", now, ticks)
	}
	return res
}

// TestPIDTaken: a PID that is in use is an error that says so, and nothing is
// left behind.
func TestPIDTaken(t *testing.T) {
	s := startC(t, "tick")
	s.checkpoint("--leave-running")
	res := want(t, harness.StatusFailed, firn(t), "restore", "-d", s.image)
	if !strings.Contains(res.Stderr, strconv.Itoa(s.PID)) {
		t.Errorf("the message does not name process %d: %s", s.PID, res)
	}
	s.unharmed()
}
