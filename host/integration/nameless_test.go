package integration

import (
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestNameless carries mappings of files without a name, memory files and deleted
// ones, of which some are open as well, and programs whose file is one.
func TestNameless(t *testing.T) {
	for _, args := range [][]string{nil, {"deleted"}, {"memfd"}, {"memfd", "--deferred"}} {
		t.Run(strings.Join(append([]string{"program"}, args...), " "), func(t *testing.T) {
			s := startC(t, "nameless", args[:min(1, len(args))]...)
			s.ticks(5)
			s.survives(args[min(1, len(args)):]...)
		})
	}
	t.Run("program deleted --live", func(t *testing.T) {
		s := startC(t, "nameless", "deleted")
		s.ticks(5)
		s.checkpoint("--leave-running", "--live")
		s.unharmed()
		for range 2 {
			s.checkpoint("--live", "--leave-running")
			s.end()
			s.restore()
			s.unharmed()
		}
	})
}

// TestShowHolders: what is in an image of a file that no task has open is told with
// who holds it.
func TestShowHolders(t *testing.T) {
	s := startC(t, "nameless")
	s.checkpoint()
	res := want(t, harness.StatusDone, firn(t), "show", s.image)
	contains(t, res, res.Stdout, "/memfd:board (deleted)", ":(mapping ")
	s.restore()
	s.unharmed()
}

// TestNamelessOutside refuses a memory file that a process outside of the tree maps
// as well.
func TestNamelessOutside(t *testing.T) {
	s := startC(t, "nameless")
	child := 0
	for _, p := range s.Tree() {
		if p.Parent == s.PID {
			child = p.PID
		}
	}
	res := want(t, harness.StatusRefused, firn(t), "checkpoint", strconv.Itoa(child), "-o", s.image)
	if !strings.Contains(res.Stderr, "shared memory that task "+strconv.Itoa(s.PID)+" has as well") {
		t.Errorf("the report does not name the other process: %s", res.Stderr)
	}
	s.unharmed()
}
