package integration

import (
	"strconv"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestPassedRights: descriptors in the queues of sockets, which may be in no other
// place.
func TestPassedRights(t *testing.T) {
	s := startC(t, "rights")
	res := want(t, harness.StatusRefused, firn(t), "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	contains(t, res, res.Stderr, "in its queue", "flock(2)", "--file-locks")
	s.unharmed()
	s.survives("--file-locks")
	finishQueues(s)
}
