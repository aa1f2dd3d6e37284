package integration

import (
	"fmt"
	"os"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// finishPtys has the subject compare and empty its pseudo-terminals.
func finishPtys(s *subject) {
	s.t.Helper()
	s.ask("drain")
	s.line("drained")
	if _, err := s.Ticks(); err != nil {
		s.t.Fatal(err)
	}
}

// TestPtys: pseudo-terminals come back with their modes, with what waits in
// both directions, and with the sessions that they are the terminal of.
func TestPtys(t *testing.T) {
	needs(t)
	s := startC(t, "ptys")
	for range 2 {
		s.cycle()
		s.ticks(3)
	}
	finishPtys(s)
}

// TestPtysLeaveRunning: a checkpoint takes nothing out of the queues.
func TestPtysLeaveRunning(t *testing.T) {
	needs(t)
	s := startC(t, "ptys")
	for range 3 {
		s.checkpoint("--leave-running")
		s.ticks(2)
	}
	finishPtys(s)
}

// TestPtyNumberInUse: a pseudo-terminal whose number somebody else has is
// named, and nothing is created.
func TestPtyNumberInUse(t *testing.T) {
	needs(t)
	s := startC(t, "ptys")
	var name string
	if _, err := fmt.Sscanf(s.line("slave "), "slave %s", &name); err != nil {
		t.Fatal(err)
	}
	s.checkpoint()
	// The kernel gives the lowest number that is free.
	var others []*os.File
	for {
		master, slave := openTerminal(t)
		others = append(others, master, slave)
		if slave.Name() == name {
			break
		}
		if len(others) > 1000 {
			t.Fatalf("%s does not come up", name)
		}
	}
	s.notRestored(harness.StatusFailed, name+": is in use")
	for _, f := range others {
		_ = f.Close()
	}
	s.restore()
	finishPtys(s)
}

// TestCrashPtys kills firn while it looks into the queues of pseudo-terminals:
// nothing of what waits there is lost.
func TestCrashPtys(t *testing.T) {
	needs(t)
	v := &victim{subject: startC(t, "ptys", "plain"), firn: firn(t)}
	for range 3 {
		v.learn(want(t, harness.StatusDone, v.firn, v.args()...))
		v.removeImage()
	}
	for range 20 * soak() {
		r, err := v.firn.Start(v.args()...)
		if err != nil {
			t.Fatal(err)
		}
		at := v.await(r, 1)
		_ = r.Kill()
		res, err := r.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if res.Status == harness.StatusDone {
			v.learn(res)
		}
		if v.survived(r.PID()); t.Failed() {
			t.Logf("firn was killed %s: %s", at, res)
		}
	}
	finishPtys(v.subject)
}
