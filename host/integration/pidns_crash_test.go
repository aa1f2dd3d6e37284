package integration

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestCrashRestoreNewPIDNamespace kills firn at random moments of a restore
// into a new PID namespace: either the copy runs, or nothing of it exists, its
// init included.
func TestCrashRestoreNewPIDNamespace(t *testing.T) {
	s := startC(t, "pidns")
	s.pause()
	before, original := mounts(t), s.pids()
	var usual time.Duration
	running := 0
	for i := range 25 * soak() {
		ticks := s.last()
		r, err := firn(t).Start("restore", "-d", "--new-pid-namespace", s.image)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			time.Sleep(time.Duration(rand.Int64N(int64(usual) * 11 / 10)))
			_ = r.Kill()
		}
		res, err := r.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if res.Status != harness.StatusDone {
				t.Fatal(res)
			}
			usual = res.Took
		}
		if err := harness.WaitSession(r.PID(), grace); err != nil {
			t.Fatal(err)
		}
		if s.copySettles(original, ticks) {
			running++
			// The end of the init is the end of everybody.
			for _, pid := range adoptedInits() {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			if s.copySettles(original, -1) {
				t.Fatal("the copy outlived its init")
			}
		}
	}
	if now := mounts(t); now != before {
		t.Errorf("mounts are\n%s\nwere\n%s", now, before)
	}
	t.Logf("%d restores of about %s, %d ran", 25*soak(), usual, running)
}

// copySettles waits until a copy of the subject ticks beyond ticks, or nothing
// of it exists; with ticks -1 for the latter only.
func (s *subject) copySettles(original []int, ticks int) (running bool) {
	s.t.Helper()
	deadline := time.Now().Add(grace)
	for time.Now().Before(deadline) {
		now := s.pids()
		if slices.Equal(now, original) && len(adoptedInits()) == 0 {
			return false
		}
		if ticks >= 0 && s.last() != ticks && len(adoptedInits()) == 1 && len(now) == 2*len(original) {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.t.Fatalf("a copy neither runs nor is gone: processes %v, original %v, init %v, disturbed %v",
		s.pids(), original, adoptedInits(), s.Disturbed())
	return false
}

// TestForeignPIDNamespaceRefused: a tree in a PID namespace of its own is
// refused by name, from outside.
func TestForeignPIDNamespaceRefused(t *testing.T) {
	s := startC(t, "pidns")
	s.pause()
	r := s.restoreCopy()
	r.moves()
	res := want(t, harness.StatusRefused, firn(t), "checkpoint", strconv.Itoa(r.root), "-o", workDir(t)+"/image.firn")
	for _, name := range []string{"pid namespace", "mnt namespace"} {
		if !strings.Contains(res.Stderr, name) {
			t.Errorf("the %s is not named: %s", name, res)
		}
	}
	r.moves()
	r.end()
}
