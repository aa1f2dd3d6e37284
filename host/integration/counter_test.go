package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// consecutive requires the numbers 0, 1, 2 ... in a file, one per line.
func consecutive(s *subject, file, prefix string) error {
	lines, err := s.Lines(file)
	if err != nil {
		return err
	}
	next := 0
	for i, line := range lines {
		n, ok := strings.CutPrefix(line, prefix)
		if !ok {
			continue
		}
		if got, err := strconv.Atoi(n); err != nil || got != next {
			return fmt.Errorf("%s: line %d is %q, want number %d", file, i+1, line, next)
		}
		next++
	}
	if next == 0 {
		return fmt.Errorf("%s: no numbers", file)
	}
	return nil
}

// TestCounter checkpoints a Python program that counts: it goes on with the
// next number under its old PID, and neither file lost or doubled a line.
func TestCounter(t *testing.T) {
	s := startCounter(t)
	for range 3 {
		s.checkpoint()
		ended := s.last()
		time.Sleep(50 * time.Millisecond)
		if now := s.last(); now != ended {
			t.Fatalf("the program counted to %d after its end at %d", now, ended)
		}
		s.restore()
		s.unharmed()
	}
	for file, prefix := range map[string]string{"log": "tick ", "offset": ""} {
		if err := consecutive(s, file, prefix); err != nil {
			t.Error(err)
		}
	}
}

// TestRestoreAttached runs restore without -d: it lasts as long as the program
// and passes on its exit status.
func TestRestoreAttached(t *testing.T) {
	s := startC(t, "tree")
	s.checkpoint()
	r, err := firn(t).Start("restore", s.image)
	if err != nil {
		t.Fatal(err)
	}
	s.unharmedTree()
	s.ask("finish")
	res, err := r.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if res.Status != treeStatus {
		t.Errorf("want the program's status %d: %s", treeStatus, res)
	}
	s.line("finished")
	s.last()
}

// TestLeaveRunning takes an image of a program that goes on, and restores it
// later: what it did in the meantime has not happened, but for its files.
func TestLeaveRunning(t *testing.T) {
	s := startCounter(t)
	before := s.last()
	s.checkpoint("--leave-running")
	s.unharmed()
	s.only(s.image)
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	s.Forget()
	ended := s.last()
	lines, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	s.restore()
	s.grows(len(lines))
	all, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	var first int
	if _, err := fmt.Sscanf(all[len(lines)], "tick %d", &first); err != nil || first < before || first > ended {
		t.Fatalf("the restored program begins with %q, the checkpoint was between %d and %d: %v", all[len(lines)], before, ended, err)
	}
	for i, line := range all[len(lines):] {
		if want := fmt.Sprintf("tick %d", first+i); line != want {
			t.Fatalf("line %d after the restore is %q, want %q", i, line, want)
		}
	}
}

// grows waits until the log has more lines than count, by some.
func (s *subject) grows(count int) {
	s.t.Helper()
	deadline := time.Now().Add(grace)
	for time.Now().Before(deadline) {
		lines, err := s.Log()
		if err != nil {
			s.t.Fatal(err)
		}
		if len(lines) > count+5 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.t.Fatalf("the log does not grow beyond %d lines", count)
}

// TestLeaveStopped requires that the tree is left stopped, by a signal that
// lets it go on.
func TestLeaveStopped(t *testing.T) {
	s := startCounter(t)
	want(t, 0, firn(t), "checkpoint", strconv.Itoa(s.PID), "-o", s.image, "--leave-stopped")
	s.stopped()
	s.resume()
	s.unharmed()
	s.checkpoint()
	s.restore("--leave-stopped")
	s.stopped()
	s.resume()
	s.unharmed()
	if err := consecutive(s, "log", "tick "); err != nil {
		t.Error(err)
	}
}

// TestCycles repeats checkpoint and restore of one program.
func TestCycles(t *testing.T) {
	s := startC(t, "threads")
	for range 8 * soak() {
		s.cycle()
		s.unharmed()
	}
}
