package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/firn-cr/firn/host/integration/harness"
)

// away is how long the program does not exist.
const away = time.Second

// clocks are CLOCK_MONOTONIC and CLOCK_BOOTTIME as the subject sees them.
type clocks struct{ monotonic, boottime time.Duration }

// read waits until the subject has read its clocks after the call, and returns
// what it saw.
func readClocks(t *testing.T, s *subject) clocks {
	t.Helper()
	s.ticks(2)
	lines, err := s.Lines("clocks")
	if err != nil || len(lines) == 0 {
		t.Fatalf("no clocks: %v", err)
	}
	var c clocks
	if _, err := fmt.Sscan(lines[len(lines)-1], &c.monotonic, &c.boottime); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestClocks: the monotonic clocks go on where they were, also when a restored
// program is checkpointed again: the time that it was away is not in them.
// With --host-clocks it is.
func TestClocks(t *testing.T) {
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "clocks.py")}})
	s.ready()
	gone := func(args ...string) (monotonic, boottime, most time.Duration) {
		begin := time.Now()
		before := readClocks(t, s)
		s.checkpoint()
		time.Sleep(away)
		s.restore(args...)
		after := readClocks(t, s)
		return after.monotonic - before.monotonic, after.boottime - before.boottime, time.Since(begin) - away
	}
	for range 2 {
		monotonic, boottime, most := gone()
		if monotonic < 0 || boottime < 0 || monotonic > most || boottime > most {
			t.Errorf("the clocks went on by %v and %v, the program existed for %v at most", monotonic, boottime, most)
		}
		s.unharmed()
	}
	if monotonic, _, _ := gone("--host-clocks"); monotonic < away {
		t.Errorf("with --host-clocks the clock went on by %v, less than the program was away", monotonic)
	}
}
