package integration

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/firn-cr/firn/host/integration/harness"
)

// restoreCrashes is how often a restore is killed.
const restoreCrashes = 25

// TestNetworkNamespaceCrash: firn is killed at random moments of a restore that makes
// a network namespace, with one end of its veth pair outside. What is left is the
// whole tree, or nothing of it, the outer end included.
func TestNetworkNamespaceCrash(t *testing.T) {
	needsConnections(t)
	w := newWorld(t, "c")
	s := w.startOutside()
	save := func() {
		t.Helper()
		want(t, harness.StatusDone, w.firn(), append([]string{"checkpoint", strconv.Itoa(s.PID), "-o", s.image, "--no-sync"}, outside...)...)
		s.Forget()
	}
	restore := []string{"restore", "-d", s.image}
	save()
	usual := want(t, harness.StatusDone, w.firn(), restore...).Took
	s.unharmed()
	save()
	whole := 0
	for range restoreCrashes * soak() {
		w.vanished("web1")
		r, err := w.firn().Start(restore...)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Duration(rand.Int64N(int64(usual) * 11 / 10))
		time.Sleep(at)
		_ = r.Kill()
		if _, err := r.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := harness.WaitSession(r.PID(), grace); err != nil {
			t.Fatalf("killed after %s of about %s: %v", at, usual, err)
		}
		if !s.livesOn() {
			continue
		}
		whole++
		s.unharmed()
		save()
	}
	t.Logf("%d of %d restores of about %s were whole before the kill", whole, restoreCrashes*soak(), usual)
	w.vanished("web1")
	want(t, harness.StatusDone, w.firn(), restore...)
	s.unharmed()
	if err := <-w.ask("10.66.0.1", 1, 1<<20); err != nil {
		t.Error(err)
	}
}

// livesOn tells whether a program goes on whose restore was killed. Tasks that were not
// let go end with firn, and may be seen for a moment yet.
func (s *subject) livesOn() bool {
	before := s.last()
	for deadline := time.Now().Add(grace); harness.Exists(s.PID) && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if s.last() > before {
			return true
		}
	}
	return harness.Exists(s.PID)
}

// vanished waits until a device is gone: the kernel clears namespaces away in its
// own time.
func (w *world) vanished(device string) {
	w.t.Helper()
	for deadline := time.Now().Add(grace); strings.Contains(w.ip("-n", w.name, "-br", "link"), device+"@"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("device %s was left behind", device)
		}
	}
}
