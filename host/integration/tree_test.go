package integration

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// treeStatus is the exit status of the subject "tree".
const treeStatus = 21

// unharmedTree is unharmed for a tree in which one process is stopped.
func (s *subject) unharmedTree() {
	s.t.Helper()
	s.ticks(3)
	stopped := 0
	for _, line := range s.Disturbed() {
		if strings.Contains(line, "TracerPid") {
			s.t.Fatalf("subject %d is still traced: %s", s.PID, line)
		}
		stopped++
	}
	if stopped != 1 {
		s.t.Fatalf("%d tasks are stopped, want 1: %v", stopped, s.Disturbed())
	}
}

// finishTree reaps the whole tree.
func finishTree(t *testing.T, s *subject) {
	t.Helper()
	s.ask("finish")
	s.line("finished")
	s.last()
	if err := harness.WaitGone(s.PID); err != nil {
		t.Error(err)
	}
}

// TestTree: sessions, groups, parents, zombies with their statuses, a stopped
// process, a subreaper with an orphan, and a group whose leader is gone.
func TestTree(t *testing.T) {
	for _, kind := range []string{"whole", "leaderless"} {
		t.Run(kind, func(t *testing.T) {
			s := startC(t, "tree", kind)
			s.checkpoint("--leave-running")
			s.unharmedTree()
			for range 2 {
				s.cycle()
				s.unharmedTree()
			}
			finishTree(t, s)
			status, err := harness.OrphanStatus(s.PID, grace)
			if err != nil || status.ExitStatus() != treeStatus {
				t.Errorf("the restored tree ended with %v, want exit status %d: %v", status, treeStatus, err)
			}
		})
	}
}

// relativesStopped is how many processes of the subject "relatives" are stopped.
const relativesStopped = 4

// TestRelatives: a session whose leader has ended with a daemon in it, stopped
// groups and members of groups, processes that were traced and left.
func TestRelatives(t *testing.T) {
	s := startC(t, "relatives")
	s.checkpoint("--leave-running")
	s.ticks(3)
	for range 2 {
		s.cycle()
		s.ticks(3)
	}
	if stopped := s.Disturbed(); len(stopped) != relativesStopped {
		t.Errorf("%d tasks are stopped, want %d: %v", len(stopped), relativesStopped, stopped)
	}
	finishTree(t, s)
}

// TestVfork: a process that waits for its vfork child cannot be stopped. It is
// named before anything is tried, and goes on.
func TestVfork(t *testing.T) {
	s := startC(t, "vforked")
	lines := strings.Join(s.refused(), "\n")
	if !strings.Contains(lines, "vfork") {
		t.Errorf("report:\n%s", lines)
	}
	s.ticks(3)
	s.ask("leave")
	s.line("left")
	s.last()
}

// mainStatus is the exit status of the subject "mainexit".
const mainStatus = 24

// mainThread is what is left of a main thread that has ended while others run.
func mainThread(t *testing.T, pid int) []string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for line := range strings.Lines(string(status)) {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "Name", "State", "Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "TracerPid":
			left = append(left, strings.TrimSpace(line))
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat))
	return append(left, "exit code "+fields[len(fields)-1])
}

// TestMainThreadExited: a process whose main thread has ended while others run
// stays so.
func TestMainThreadExited(t *testing.T) {
	for _, args := range [][]string{{"pthread"}, {"raw"}, {"raw", "nobody"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			needs(t)
			s := startC(t, "mainexit", args...)
			before := mainThread(t, s.PID)
			for range 3 {
				s.checkpoint("--leave-running")
				s.unharmed()
			}
			for range 3 {
				s.cycle()
				s.unharmed()
			}
			if after := mainThread(t, s.PID); !slices.Equal(before, after) {
				t.Errorf("the main thread is\n%s\nand was\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
			}
			want(t, harness.StatusDone, firn(t), "check", fmt.Sprint(s.PID))
			finishTree(t, s)
			status, err := harness.OrphanStatus(s.PID, grace)
			if err != nil || status.ExitStatus() != mainStatus {
				t.Errorf("the restored process ended with %v, want exit status %d: %v", status, mainStatus, err)
			}
		})
	}
}

// TestPipeline: bash runs three commands with data in the pipes; nothing that
// was in them is lost, doubled or out of order.
func TestPipeline(t *testing.T) {
	script := fmt.Sprintf("set -m; seq 1 100000000 | sed -u s/^/x/ | %s %s; true", program(t, "python3"), script(t, "consumer.py"))
	s := start(t, harness.Spec{Path: program(t, "bash"), Args: []string{"-c", script}})
	s.ready()
	var names []string
	for _, p := range s.Tree() {
		names = append(names, p.Comm)
		if p.PID != s.PID && (p.Parent != s.PID || p.Group == s.PID) {
			t.Errorf("process %+v is not in a group of its own below bash", p)
		}
	}
	slices.Sort(names)
	if want := []string{"bash", "python3", "sed", "seq"}; !slices.Equal(names, want) {
		t.Fatalf("the pipeline has %v, want %v", names, want)
	}
	for range 3 {
		s.cycle()
		s.unharmed()
	}
	if err := consecutive(s, "log", "tick "); err != nil {
		t.Error(err)
	}
}

// TestProcessGone: a process that does not exist, and one that ended.
func TestProcessGone(t *testing.T) {
	f := firn(t)
	image := workDir(t) + "/image.firn"
	for _, pid := range []string{"4194303", "0", "-1", "x"} {
		res := run(t, f, "checkpoint", pid, "-o", image)
		if res.Status != harness.StatusFailed && res.Status != harness.StatusUsage {
			t.Errorf("process %q: %s", pid, res)
		}
		if _, err := os.Stat(image); err == nil {
			t.Errorf("process %q: an image was written", pid)
		}
	}
}
