package integration

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// levelsStatus is the exit status of the subject "levels".
const levelsStatus = 23

// inside is the subject "levels" in PID namespaces of its own.
type inside struct {
	*subject
	// root is its outermost process, by its number here.
	root int
	// depth is how many PID namespaces around the root its own one is below.
	depth int
}

// startInside starts the subject as the first process of a PID namespace, and
// with further ones inside that.
func startInside(t *testing.T, levels int, flags ...string) *inside {
	t.Helper()
	spec := harness.Spec{Path: program(t, "unshare"), Args: append(slices.Clone(flags), "-p", "-f", cSubject(t, "levels"), strconv.Itoa(levels))}
	if slices.Contains(flags, "--mount-proc") {
		spec.Env = []string{"OWN_PROC=1"}
	}
	s := &inside{subject: start(t, spec), depth: 1}
	s.ready()
	for _, p := range s.Tree() {
		if p.Parent == s.PID {
			s.root = p.PID
		}
	}
	if s.root == 0 || ownNumber(t, s.root) != 1 {
		t.Fatalf("process %d is not the first of a PID namespace: %v", s.root, s.Tree())
	}
	return s
}

// members are the numbers of all tasks of the tree in its namespaces, with those
// of their groups and sessions.
func (s *inside) members() []string {
	s.t.Helper()
	var out []string
	for _, p := range s.Tree() {
		if p.Comm != "levels" {
			continue
		}
		for _, tid := range p.Threads {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", p.PID, tid))
			if err != nil {
				s.t.Fatal(err)
			}
			line := p.Comm
			for l := range strings.Lines(string(b)) {
				name, numbers, _ := strings.Cut(l, ":")
				if strings.HasPrefix(name, "NS") {
					line += fmt.Sprintf(" %s %v", name, strings.Fields(numbers)[s.depth:])
				}
			}
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

// save checkpoints the tree by the number that it has here, or that of its init.
func (s *inside) save(pid int, args ...string) {
	s.t.Helper()
	res := want(s.t, harness.StatusDone, firn(s.t), append([]string{"checkpoint", strconv.Itoa(pid), "-o", s.image, "--json"}, args...)...)
	var c harness.Checkpoint
	if err := res.Decode(&c); err != nil {
		s.t.Fatal(err)
	}
	if c.RootPID != s.root {
		s.t.Errorf("result names process %d, want %d", c.RootPID, s.root)
	}
}

// bring restores the tree and returns its init, if firn made one.
func (s *inside) bring(args ...string) (init int) {
	s.t.Helper()
	res := want(s.t, harness.StatusDone, firn(s.t), append([]string{"restore", "-d", "--json", s.image}, args...)...)
	var r harness.Restore
	if err := res.Decode(&r); err != nil {
		s.t.Fatal(err)
	}
	s.root = r.RootPID
	(&harness.Subject{PID: s.root}).Forget()
	return r.InitPID
}

// goesOn requires that the tree is what it was, and undisturbed.
func (s *inside) goesOn(members []string) {
	s.t.Helper()
	s.unharmed()
	if now := s.members(); !slices.Equal(now, members) {
		s.t.Fatalf("tasks are\n%s\nwere\n%s", strings.Join(now, "\n"), strings.Join(members, "\n"))
	}
}

// finishes has the tree verify what it can only once, and requires that nobody
// is left.
func (s *inside) finishes(init ...int) {
	s.t.Helper()
	s.ask("finish")
	s.line("finished")
	status, err := harness.OrphanStatus(s.root, grace)
	if err != nil || status.ExitStatus() != levelsStatus {
		s.t.Errorf("ended with %v, want exit status %d: %v", status, levelsStatus, err)
	}
	s.last()
	if err := harness.WaitGone(append(init, s.root)...); err != nil {
		s.t.Error(err)
	}
}

// pidnsCycles is how often a tree is checkpointed and restored.
const pidnsCycles = 5

// TestOwnPIDNamespaceCycles checkpoints trees that begin with the first process
// of a PID namespace, with their own /proc or the host's, and with further
// namespaces inside.
func TestOwnPIDNamespaceCycles(t *testing.T) {
	for _, flags := range [][]string{{"--mount-proc", "--uts"}, nil} {
		for levels := range 3 {
			t.Run(fmt.Sprint(levels, flags), func(t *testing.T) {
				s := startInside(t, levels, flags...)
				before, members := mounts(t), s.members()
				for range pidnsCycles {
					s.save(s.root)
					if left := s.members(); len(left) > 0 {
						t.Fatalf("tasks are left: %v", left)
					}
					if init := s.bring(); init != 0 {
						t.Fatalf("firn made an init, process %d, for a tree that has one", init)
					}
					s.goesOn(members)
				}
				s.finishes()
				if now := mounts(t); now != before {
					t.Errorf("mounts are\n%s\nwere\n%s", now, before)
				}
			})
		}
	}
}

// TestNestedPIDNamespaces: the root shares firn's PID namespace, some of its
// descendants do not.
func TestNestedPIDNamespaces(t *testing.T) {
	for levels := 1; levels < 3; levels++ {
		t.Run(fmt.Sprint(levels), func(t *testing.T) {
			s := &inside{subject: startC(t, "levels", strconv.Itoa(levels))}
			s.root = s.PID
			members := s.members()
			for range pidnsCycles {
				s.save(s.PID)
				s.Forget()
				s.bring()
				if s.root != s.PID {
					t.Fatalf("restored as process %d, was %d", s.root, s.PID)
				}
				s.goesOn(members)
			}
			s.finishes()
		})
	}
}

// TestNewPIDNamespaceCycles: a tree that firn restored into a PID namespace is
// checkpointed again, by its own number or that of its init, and restored into
// another one.
func TestNewPIDNamespaceCycles(t *testing.T) {
	for levels := range 3 {
		t.Run(fmt.Sprint(levels), func(t *testing.T) {
			s := &inside{subject: startC(t, "levels", strconv.Itoa(levels))}
			s.root = s.PID
			s.save(s.PID)
			s.Forget()
			init := s.bring("--new-pid-namespace")
			s.depth = 1
			members := s.members()
			for i := range pidnsCycles {
				s.save([]int{s.root, init}[i%2])
				if err := harness.WaitGone(init); err != nil {
					t.Fatal(err)
				}
				if init = s.bring(); init == 0 {
					t.Fatal("the tree has no init any more")
				}
				s.goesOn(members)
			}
			s.finishes(init)
		})
	}
}

// TestNewPIDNamespaceLeavesOrphans: what the tree has left to its init is
// carried with it.
func TestNewPIDNamespaceLeavesOrphans(t *testing.T) {
	s := &inside{subject: startC(t, "orphans")}
	s.root = s.PID
	s.save(s.PID)
	s.Forget()
	init := s.bring("--new-pid-namespace")
	s.depth = 1
	s.ask("leave")
	s.line("left")
	for range pidnsCycles {
		s.save(s.root)
		init = s.bring()
		s.unharmed()
	}
	s.finishes(init)
}

// TestOwnPIDNamespaceLeaveRunning: the tree goes on, and its image is good.
func TestOwnPIDNamespaceLeaveRunning(t *testing.T) {
	s := startInside(t, 2, "--mount-proc")
	members := s.members()
	for range pidnsCycles {
		s.save(s.root, "--leave-running")
		s.goesOn(members)
	}
	s.save(s.root, "--leave-stopped")
	original := s.pids()
	for _, p := range s.Tree() {
		if p.Comm == "levels" && p.State != "T" {
			t.Errorf("process %d is %s, want stopped", p.PID, p.State)
		}
	}
	s.bring()
	s.ticks(3)
	for _, pid := range s.pids() {
		if !slices.Contains(original, pid) {
			if d := harness.Disturbed(pid); len(d) > 0 {
				t.Errorf("the copy was left disturbed: %v", d)
			}
		}
	}
	s.finishes()
}

// TestOwnPIDNamespaceAttached passes on the status of the first process.
func TestOwnPIDNamespaceAttached(t *testing.T) {
	s := startInside(t, 1, "--mount-proc")
	s.save(s.root)
	r, err := firn(t).Start("restore", s.image)
	if err != nil {
		t.Fatal(err)
	}
	s.ticks(3)
	s.ask("finish")
	res, err := r.Wait()
	if err != nil || res.Status != levelsStatus {
		t.Fatalf("want the program's status %d: %s: %v", levelsStatus, res, err)
	}
	if left := s.members(); len(left) > 0 {
		t.Errorf("tasks are left: %v", left)
	}
}

// TestOwnPIDNamespaceShown: both numbers are told.
func TestOwnPIDNamespaceShown(t *testing.T) {
	s := startInside(t, 1, "--mount-proc")
	res := want(t, harness.StatusDone, firn(t), "check", strconv.Itoa(s.root))
	if both := fmt.Sprintf("1 %q (%d here)", "levels", s.root); !strings.Contains(res.Stdout, both) {
		t.Errorf("the report does not say %s: %s", both, res)
	}
	s.save(s.root)
	res = want(t, harness.StatusDone, firn(t), "show", s.image)
	for _, text := range []string{"PID namespace", "its own, with its own /proc", "first process 1"} {
		if !strings.Contains(res.Stdout, text) {
			t.Errorf("show does not say %q: %s", text, res)
		}
	}
	s.bring()
	s.finishes()
}
