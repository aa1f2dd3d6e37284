package integration

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// pidnsStatus is the exit status of the subject "pidns".
const pidnsStatus = 23

// initName is the name of the first process of a namespace that firn makes.
const initName = "firn-init"

// pause checkpoints a subject and leaves it stopped: its numbers stay in use.
func (s *subject) pause() {
	s.t.Helper()
	want(s.t, 0, firn(s.t), "checkpoint", strconv.Itoa(s.PID), "-o", s.image, "--leave-stopped")
	s.stopped()
}

// copied is a subject's copy in a PID namespace of its own.
type copied struct {
	*subject
	root, init int
	original   []int
}

// restoreCopy restores a subject into a new PID namespace.
func (s *subject) restoreCopy(args ...string) *copied {
	s.t.Helper()
	original := s.pids()
	res := want(s.t, harness.StatusDone, firn(s.t),
		append([]string{"restore", "-d", "--json", "--new-pid-namespace", s.image}, args...)...)
	var r harness.Restore
	if err := res.Decode(&r); err != nil {
		s.t.Fatal(err)
	}
	c := &copied{subject: s, root: r.RootPID, init: r.InitPID, original: original}
	(&harness.Subject{PID: c.root}).Forget()
	return c
}

// moves requires that the copy goes on under its old numbers.
func (c *copied) moves() {
	c.t.Helper()
	c.ticks(3)
	if c.root == c.PID || slices.Contains(c.original, c.root) {
		c.t.Errorf("the copy is task %d here, which is a number of the original", c.root)
	}
	if own := ownNumber(c.t, c.root); own != c.PID {
		c.t.Errorf("the copy's root is %d to itself, want %d", own, c.PID)
	}
	for _, p := range c.tree() {
		if d := harness.Disturbed(p); len(d) > 0 && !strings.Contains(fmt.Sprint(d), "State T (stopped)") {
			c.t.Errorf("the copy was left disturbed: %v", d)
		}
	}
}

// tree are the processes of the copy.
func (c *copied) tree() []int {
	return slices.DeleteFunc(c.pids(), func(pid int) bool { return slices.Contains(c.original, pid) })
}

// gone requires that nothing of the copy is left, once its root has ended, and
// that the original is still there.
func (c *copied) gone() {
	c.t.Helper()
	if err := harness.WaitGone(c.root, c.init); err != nil {
		c.t.Errorf("root %d or init %d: %v", c.root, c.init, err)
	}
	if left := c.tree(); len(left) > 0 {
		c.t.Errorf("processes %v survived their PID namespace", left)
	}
	if now := c.pids(); !slices.Equal(now, c.original) {
		c.t.Errorf("the original has the processes %v, had %v", now, c.original)
	}
}

// ownNumber is the number of a process in its own PID namespace.
func ownNumber(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(b, []byte("\nNSpid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	fields := strings.Fields(string(line))
	if len(fields) == 0 {
		t.Fatalf("process %d: no NSpid", pid)
	}
	n, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mounts is the mount table of this process, which no restore may change.
func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestNewPIDNamespace restores programs whose numbers are in use: everywhere
// they look they find their old ones.
func TestNewPIDNamespace(t *testing.T) {
	for _, c := range []struct {
		name, ask string
		status    int
	}{{"pidns", "finish", pidnsStatus}, {"pidns", "abandon", pidnsStatus}, {"tree", "finish", treeStatus}} {
		t.Run(c.name+"_"+c.ask, func(t *testing.T) {
			s := startC(t, c.name)
			s.pause()
			before := mounts(t)
			res := run(t, firn(t), "restore", "-d", s.image)
			if res.Status != harness.StatusFailed || !strings.Contains(res.Stderr, "--new-pid-namespace") {
				t.Errorf("want a failure that names the flag: %s", res)
			}
			r := s.restoreCopy()
			r.moves()
			s.ask(c.ask)
			s.line("finished")
			s.last()
			status, err := harness.OrphanStatus(r.root, grace)
			if err != nil || status.ExitStatus() != c.status {
				t.Errorf("the copy ended with %v, want exit status %d: %v", status, c.status, err)
			}
			r.gone()
			if now := mounts(t); now != before {
				t.Errorf("mounts are\n%s\nwere\n%s", now, before)
			}
		})
	}
}

// TestNewPIDNamespaceAttached: restore lasts as long as the namespace and passes
// on the exit status of the root.
func TestNewPIDNamespaceAttached(t *testing.T) {
	for _, ask := range []string{"finish", "abandon"} {
		s := startC(t, "pidns")
		s.pause()
		original := s.pids()
		r, err := firn(t).Start("restore", "--new-pid-namespace", s.image)
		if err != nil {
			t.Fatal(err)
		}
		s.ticks(3)
		s.ask(ask)
		res, err := r.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if res.Status != pidnsStatus {
			t.Errorf("want the program's status %d: %s", pidnsStatus, res)
		}
		// Restore does not return before the namespace has ended.
		if now := s.pids(); !slices.Equal(now, original) {
			t.Errorf("processes %v are left, want the original %v", now, original)
		}
		if left := adoptedInits(); len(left) > 0 {
			t.Errorf("init %v is left", left)
		}
		s.last()
	}
}

// end kills the root of the copy, and so the namespace.
func (c *copied) end() {
	c.t.Helper()
	if err := syscall.Kill(c.root, syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
	c.gone()
}

// TestNewPIDNamespaceState: everything of a task's state, in a new namespace.
func TestNewPIDNamespaceState(t *testing.T) {
	for _, user := range []string{"root", "nobody"} {
		t.Run(user, func(t *testing.T) {
			gate.Cap(t, unix.CAP_SETUID)
			gate.Cap(t, unix.CAP_SYS_NICE)
			s := startC(t, "taskstate", user)
			s.pause()
			r := s.restoreCopy()
			r.moves()
			s.ask("dump")
			s.line("dumped")
			same(t, s)
			r.end()
		})
	}
}

// TestNewPIDNamespacePidfds: also pidfds of what was reaped long ago are of the
// tree's namespace.
func TestNewPIDNamespacePidfds(t *testing.T) {
	s := startC(t, "pidfds")
	s.pause()
	r := s.restoreCopy()
	r.moves()
	finishQueues(s)
	r.end()
}

// TestNewPIDNamespaceTwice has two copies of a program at the same time, each
// in a namespace of its own.
func TestNewPIDNamespaceTwice(t *testing.T) {
	s := startCounter(t)
	s.pause()
	first := s.restoreCopy()
	first.moves()
	second := s.restoreCopy() // for which the first one is of the original
	second.moves()
	if first.root == second.root || first.init == second.init {
		t.Errorf("two copies are tasks %d and %d, with init %d and %d", first.root, second.root, first.init, second.init)
	}
	second.end()
	first.moves()
	first.end()
}

// TestNewPIDNamespaceThreads: a program of Go with its threads.
func TestNewPIDNamespaceThreads(t *testing.T) {
	s := startGo(t, "gorun")
	s.checkpoint()
	r := s.restoreCopy()
	r.moves()
	r.end()
}

// TestNewPIDNamespaceRolledBack lets restores fail at any moment: nothing of
// them is left. When they do not fail, the copy is ended.
func TestNewPIDNamespaceRolledBack(t *testing.T) {
	s := startC(t, "pidns")
	s.pause()
	before, original := mounts(t), s.pids()
	failed := 0
	for ms := 1; ms < 300; ms += 300 / (15 * soak()) {
		res := run(t, firn(t), "restore", "-d", "--json", "--new-pid-namespace", "--timeout", fmt.Sprintf("%dms", ms), s.image)
		switch res.Status {
		case harness.StatusTimeout:
			failed++
		case harness.StatusDone:
			var r harness.Restore
			if err := res.Decode(&r); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(r.RootPID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := harness.WaitGone(r.RootPID, r.InitPID); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("want status 0 or %d: %s", harness.StatusTimeout, res)
		}
		if left := adoptedInits(); len(left) > 0 {
			t.Fatalf("init %v is left: %s", left, res)
		}
		if now := s.pids(); !slices.Equal(now, original) {
			t.Fatalf("processes %v are left, want the original %v: %s", now, original, res)
		}
	}
	if failed == 0 {
		t.Error("no restore failed")
	}
	if now := mounts(t); now != before {
		t.Errorf("mounts are\n%s\nwere\n%s", now, before)
	}
}

// adoptedInits are the inits of namespaces that came to this process.
func adoptedInits() []int {
	var found []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := harness.ReadProcess(pid); err == nil && p.Comm == initName && p.Parent == os.Getpid() {
			found = append(found, pid)
		}
	}
	return found
}

// TestNewPIDNamespaceSeccomp: a program under seccomp.
func TestNewPIDNamespaceSeccomp(t *testing.T) {
	s := startC(t, "seccomp", "full")
	s.checkpoint()
	r := s.restoreCopy()
	r.moves()
	r.end()
}

// TestNewPIDNamespaceMainExited: a process whose main thread has exited.
func TestNewPIDNamespaceMainExited(t *testing.T) {
	s := startC(t, "mainexit", "raw")
	s.checkpoint()
	r := s.restoreCopy()
	r.moves()
	r.end()
}
