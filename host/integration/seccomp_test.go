package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/procfs"
)

// modes are the seccomp modes and numbers of filters of all threads.
func (s *subject) modes() map[int]string {
	s.t.Helper()
	modes := map[int]string{}
	for _, tid := range s.threads() {
		st, err := procfs.Status(tid)
		if err != nil {
			s.t.Fatal(err)
		}
		modes[tid] = fmt.Sprintf("mode %d, %d filters, no_new_privs %v", st.Seccomp, st.SeccompFilters, st.NoNewPrivs)
	}
	return modes
}

// filtered requires that all threads are under seccomp as they were.
func (s *subject) filtered(before map[int]string) {
	s.t.Helper()
	s.unharmed()
	now := s.modes()
	for tid, want := range before {
		if now[tid] != want {
			s.t.Errorf("thread %d: %s, was: %s", tid, now[tid], want)
		}
	}
}

// TestSeccomp: programs under seccomp go on, and so do their filters, in the
// program that was saved and in its copies.
func TestSeccomp(t *testing.T) {
	for _, kind := range []string{"full", "strict"} {
		t.Run(kind, func(t *testing.T) {
			s := startC(t, "seccomp", kind)
			before := s.modes()
			under := 0
			for _, mode := range before {
				if !strings.HasPrefix(mode, "mode 0") {
					under++
				}
			}
			if want := map[string]int{"full": 4, "strict": 1}[kind]; under != want {
				t.Fatalf("%d threads are under seccomp, want %d: %v", under, want, before)
			}
			for range 5 {
				s.checkpoint("--leave-running")
				s.filtered(before)
			}
			for range 3 {
				s.cycle()
				s.filtered(before)
			}
			s.ask("finish")
			s.line("finished")
		})
	}
}

// TestCrashSeccomp kills firn with SIGKILL at random moments of the checkpoint
// of a program whose filters refuse what firn asks of it: they are in force
// again at once.
func TestCrashSeccomp(t *testing.T) {
	onlyAMD64(t)
	v := &victim{subject: startC(t, "seccomp", "mild"), firn: firn(t)}
	v.learn(want(t, harness.StatusDone, v.firn, v.args()...))
	v.removeImage()
	before := v.modes()
	for n := range crashes / 4 * soak() {
		r, err := v.firn.Start(v.args()...)
		if err != nil {
			t.Fatal(err)
		}
		at := v.await(r, n)
		_ = r.Kill()
		res, err := r.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if res.Status == harness.StatusDone {
			v.learn(res)
		}
		v.survived(r.PID())
		if t.Failed() {
			t.Fatalf("firn was killed %s: %s", at, res)
		}
	}
	v.filtered(before)
	v.cycle()
	v.filtered(before)
}

// TestSeccompRights: without the right to suspend seccomp, programs under it are
// neither saved nor restored, and firn says why.
func TestSeccompRights(t *testing.T) {
	s := startC(t, "seccomp", "strict")
	f := firn(t)
	f.Prefix = []string{program(t, "setpriv"), "--bounding-set", "-sys_admin", "--"}
	res := want(t, harness.StatusRefused, f, "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	contains(t, res, res.Stderr, "seccomp", "CAP_SYS_ADMIN")
	s.only(s.image)
	s.unharmed()
	s.checkpoint()
	s.notRestoredBy(f, harness.StatusFailed, "seccomp", "CAP_SYS_ADMIN")
	s.restore()
	s.unharmed()
}
