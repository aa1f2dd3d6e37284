package integration

import (
	"strconv"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestURing: rings of io_uring with completions that were not taken, a thread that
// waits for one, and one that two processes use, with and without an array of
// indices.
func TestURing(t *testing.T) {
	for _, args := range [][]string{{}, {"plain"}} {
		t.Run("program "+strconv.Itoa(len(args)), func(t *testing.T) {
			startC(t, "uring", args...).survives()
		})
	}
}

// TestURingRefused: what a ring has that cannot be carried is told by name, and the
// program goes on.
func TestURingRefused(t *testing.T) {
	for what, words := range map[string]string{
		"poll": "polls in flight", "timeout": "requests in flight", "buffers": "registered buffers", "files": "registered files",
		"eventfd": "registered eventfd", "group": "a group of buffers (54321)", "ring": "IORING_REGISTER_RING_FDS",
		"unsubmitted": "not submitted yet", "single": "IORING_SETUP_SINGLE_ISSUER", "thread": "IORING_SETUP_SQPOLL",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := startC(t, "uring", what)
			res := want(t, harness.StatusRefused, firn(t), "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
			contains(t, res, res.Stderr, "io_uring", words)
			s.unharmed()
		})
	}
}
