package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// markVariable is the environment variable with the mark of a subject.
const markVariable = "FIRN_TEST_SUBJECT"

// Patience bounds every wait for a subject.
const Patience = 30 * time.Second

var marks atomic.Int64

// Spec says how a subject is started.
type Spec struct {
	Path string
	Args []string
	// Dir is the working directory; it must be empty.
	Dir string
	// Files replace standard input, output and error; nil means /dev/null for
	// the first and the file "out" in Dir for the others.
	Files [3]*os.File
	// Terminal makes Files[0] the controlling terminal.
	Terminal bool
	Env      []string
}

// Subject is a running program, before and after a restore.
type Subject struct {
	// Dir is the working directory, PID the process id: it never changes.
	Dir  string
	PID  int
	Mark string

	exited chan struct{}
	status error
}

// Start starts a subject in its own session. Call Sweep when it is not needed
// any more.
func Start(spec Spec) (*Subject, error) {
	s := &Subject{
		Dir:    spec.Dir,
		Mark:   fmt.Sprintf("%d-%d-%d", os.Getpid(), time.Now().UnixNano(), marks.Add(1)),
		exited: make(chan struct{}),
	}
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Dir = spec.Dir
	cmd.Env = append([]string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C", "HOME=/", markVariable + "=" + s.Mark}, spec.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: spec.Terminal}
	out, err := os.OpenFile(filepath.Join(spec.Dir, "out"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if spec.Files[0] != nil {
		cmd.Stdin = spec.Files[0]
	}
	if spec.Files[1] != nil {
		cmd.Stdout = spec.Files[1]
	}
	if spec.Files[2] != nil {
		cmd.Stderr = spec.Files[2]
	}
	if err := orphans.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	s.PID = cmd.Process.Pid
	orphans.forget(s.PID)
	go func() {
		s.status = orphans.wait(cmd)
		close(s.exited)
	}()
	return s, nil
}

// Exited waits until the process that Start created was ended, and returns
// what os/exec says of it.
func (s *Subject) Exited(timeout time.Duration) error {
	select {
	case <-s.exited:
		return s.status
	default:
	}
	select {
	case <-s.exited:
		return s.status
	case <-time.After(timeout):
		return fmt.Errorf("process %d: %w after %s", s.PID, errTimeout, timeout)
	}
}

// Forget drops the exit status of an earlier process with the subject's PID.
func (s *Subject) Forget() { orphans.forget(s.PID) }

// Path is the path of a file in the subject's directory.
func (s *Subject) Path(name string) string { return filepath.Join(s.Dir, name) }

// Ask creates a file that the subject looks for.
func (s *Subject) Ask(name string) error {
	return os.WriteFile(s.Path(name), nil, 0o644)
}

// Log returns the whole lines of the subject's log.
func (s *Subject) Log() ([]string, error) { return s.Lines("log") }

// Lines returns the whole lines of a file in the subject's directory; none if
// there is no such file.
func (s *Subject) Lines(name string) ([]string, error) {
	b, err := os.ReadFile(s.Path(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(b), "\n")
	return lines[:len(lines)-1], nil
}

// Ticks returns the number of the last tick, -1 if there is none. The error
// tells of the first line that starts with "bad".
func (s *Subject) Ticks() (int, error) {
	lines, err := s.Log()
	if err != nil {
		return 0, err
	}
	last := -1
	for _, line := range lines {
		if strings.HasPrefix(line, "bad") {
			return last, fmt.Errorf("subject %d says %q (after tick %d)", s.PID, line, last)
		}
		if n, ok := strings.CutPrefix(line, "tick "); ok {
			if last, err = strconv.Atoi(n); err != nil {
				return 0, fmt.Errorf("log: %w", err)
			}
		}
	}
	return last, nil
}

// WaitLine waits for a line in the log that starts with prefix.
func (s *Subject) WaitLine(prefix string) (string, error) {
	var found string
	err := poll(Patience, func() (bool, error) {
		lines, err := s.Log()
		if err != nil {
			return false, err
		}
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, prefix) })
		if i >= 0 {
			found = lines[i]
		}
		return i >= 0, nil
	})
	if err != nil {
		return "", fmt.Errorf("wait for %q in the log of %d: %w", prefix, s.PID, err)
	}
	return found, nil
}

// WaitTicks waits until the subject ticked count times more.
func (s *Subject) WaitTicks(count int) error {
	start, err := s.Ticks()
	if err != nil {
		return err
	}
	err = poll(Patience, func() (bool, error) {
		now, err := s.Ticks()
		return now >= start+count, err
	})
	if err != nil {
		return fmt.Errorf("wait for %d ticks of %d after %d: %w", count, s.PID, start, err)
	}
	return nil
}

// Tree returns the processes of the subject, by their marks, sorted by PID.
func (s *Subject) Tree() []Process {
	var tree []Process
	for _, pid := range Marked(s.Mark) {
		if p, err := ReadProcess(pid); err == nil {
			tree = append(tree, p)
		}
	}
	return tree
}

// Disturbed describes every thread of the tree that is stopped or traced.
func (s *Subject) Disturbed() []string {
	var found []string
	for _, pid := range Marked(s.Mark) {
		found = append(found, Disturbed(pid)...)
	}
	return found
}

// WaitGone waits until none of the processes exists.
func WaitGone(pids ...int) error {
	return poll(Patience, func() (bool, error) { return !slices.ContainsFunc(pids, Exists), nil })
}

// Sweep kills every process of the subject and waits until none is left.
func (s *Subject) Sweep() error {
	var last []int
	err := poll(Patience, func() (bool, error) {
		last = Marked(s.Mark)
		for _, pid := range last {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(last) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("end subject %d: processes %v: %w", s.PID, last, err)
	}
	return nil
}
