package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
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
		if s.copySettles(original, ticks, 1) {
			running++
			// The end of the init is the end of everybody.
			for _, pid := range adoptedInits() {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			if s.copySettles(original, -1, 1) {
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
// of it exists; with ticks -1 for the latter only. A copy has as many inits of
// firn's, or else lacks the process that created the original's namespace.
func (s *subject) copySettles(original []int, ticks, inits int) (running bool) {
	s.t.Helper()
	deadline := time.Now().Add(grace)
	for time.Now().Before(deadline) {
		now := s.pids()
		if slices.Equal(now, original) && len(adoptedInits()) == 0 {
			return false
		}
		if ticks >= 0 && s.last() != ticks && len(adoptedInits()) == inits && len(now) == 2*len(original)-1+inits {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.t.Fatalf("a copy neither runs nor is gone: processes %v, original %v, init %v, disturbed %v",
		s.pids(), original, adoptedInits(), s.Disturbed())
	return false
}

// TestCrashCheckpointPIDNamespace kills firn at random moments of a checkpoint of
// trees in PID namespaces: they go on as if nothing had happened.
func TestCrashCheckpointPIDNamespace(t *testing.T) {
	s := startInside(t, 1, "--mount-proc")
	members, killed := s.members(), 0
	var usual time.Duration
	for i := range 25 * soak() {
		r, err := firn(t).Start("checkpoint", strconv.Itoa(s.root), "-o", s.image, "--leave-running")
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
		} else if res.Status != harness.StatusDone {
			killed++
		}
		if err := harness.WaitSession(r.PID(), grace); err != nil {
			t.Fatal(err)
		}
		s.goesOn(members)
	}
	t.Logf("%d checkpoints of about %s, %d killed", 25*soak(), usual, killed)
	s.save(s.root)
	s.bring()
	s.goesOn(members)
	s.finishes()
}

// TestCrashRestorePIDNamespace kills firn at random moments of a restore of a
// tree that begins with the first process of a PID namespace.
func TestCrashRestorePIDNamespace(t *testing.T) {
	s := startInside(t, 1, "--mount-proc")
	s.save(s.root, "--leave-stopped")
	original := s.pids()
	var usual time.Duration
	for i := range 25 * soak() {
		ticks := s.last()
		r, err := firn(t).Start("restore", "-d", s.image)
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
			usual = res.Took
		}
		if err := harness.WaitSession(r.PID(), grace); err != nil {
			t.Fatal(err)
		}
		if s.copySettles(original, ticks, 0) {
			for _, pid := range s.pids() {
				if !slices.Contains(original, pid) && isFirst(pid) {
					// The end of the first process is the end of everybody.
					_ = syscall.Kill(pid, syscall.SIGKILL)
					break
				}
			}
			if s.copySettles(original, -1, 0) {
				t.Fatal("the copy outlived its first process")
			}
		}
	}
}

// isFirst tells whether a process is the first one of a PID namespace that lies
// in this process's.
func isFirst(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(b), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	numbers := strings.Fields(line)
	return err == nil && len(numbers) == 2 && numbers[1] == "1"
}
