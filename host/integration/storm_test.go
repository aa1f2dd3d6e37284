package integration

import (
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// storms is how often a tree that changes wildly is checkpointed.
const storms = 20

// TestStorm: processes fork and threads are created while the tree is frozen;
// none is missed, none is left stopped, and the program's own count is right.
func TestStorm(t *testing.T) {
	for _, kind := range []string{"processes", "threads"} {
		t.Run(kind, func(t *testing.T) {
			s := startC(t, "storm", kind)
			for range storms {
				s.checkpoint("--leave-running")
				s.ticks(1)
			}
			s.unharmed()
			s.checkpoint()
			s.restore()
			s.unharmed()
			finishThreads(s)
			if err := harness.WaitGone(s.PID); err != nil {
				t.Error(err)
			}
		})
	}
}
