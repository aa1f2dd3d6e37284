package integration

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestTimeout: a checkpoint that takes longer than it may is rolled back.
func TestTimeout(t *testing.T) {
	v := startVictim(t)
	timedOut := 0
	for _, limit := range []string{"1ms", "5ms", "10ms", "20ms", "40ms"} {
		res := run(t, v.firn, append(v.args(), "--timeout", limit)...)
		switch res.Status {
		case harness.StatusTimeout:
			timedOut++
		case harness.StatusDone:
		default:
			t.Errorf("with a limit of %s: %s", limit, res)
		}
		v.survived(res.PID)
	}
	if timedOut == 0 {
		t.Error("no checkpoint timed out")
	}
}

// TestInterrupted: SIGINT and SIGTERM roll a checkpoint back.
func TestInterrupted(t *testing.T) {
	v := startVictim(t)
	for i := range 20 * soak() {
		r, err := v.firn.Start(v.args()...)
		if err != nil {
			t.Fatal(err)
		}
		v.await(r, i/2)
		_ = syscall.Kill(r.PID(), []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}[i%2])
		res, err := r.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if existed := v.removeImage(); existed != (res.Status == harness.StatusDone) {
			t.Fatalf("image: %v: %s", existed, res)
		}
		v.survived(r.PID())
	}
}

// TestTwoAtOnce: two checkpoints of one program at the same time do not harm
// it; at least one of them succeeds or both say why not.
func TestTwoAtOnce(t *testing.T) {
	v := startVictim(t)
	for range 5 {
		var wg sync.WaitGroup
		var results [2]harness.Result
		var errs [2]error
		for i := range results {
			wg.Go(func() {
				results[i], errs[i] = v.firn.Run("checkpoint", strconv.Itoa(v.PID), "-o", v.image+strconv.Itoa(i), "--leave-running", "--no-sync")
			})
		}
		wg.Wait()
		for i, res := range results {
			if errs[i] != nil {
				t.Fatal(errs[i])
			}
			image := v.image + strconv.Itoa(i)
			if res.Status == harness.StatusDone {
				want(t, harness.StatusDone, v.firn, "verify", image)
				if err := os.Remove(image); err != nil {
					t.Error(err)
				}
			} else if !strings.Contains(res.Stderr, strconv.Itoa(v.PID)) {
				t.Errorf("the message does not name the process: %s", res)
			}
		}
		for _, res := range results {
			v.survived(res.PID)
		}
	}
}

// TestManyAtOnce: different programs are checkpointed and restored at the same
// time.
func TestManyAtOnce(t *testing.T) {
	needs(t)
	var wg sync.WaitGroup
	all := make([]*subject, 4)
	for i := range all {
		all[i] = startC(t, []string{"threads", "queues", "tick", "memory"}[i])
	}
	f := firn(t)
	for _, s := range all {
		wg.Go(func() {
			for range 3 {
				for _, args := range [][]string{
					{"checkpoint", strconv.Itoa(s.PID), "-o", s.image}, {"restore", "-d", s.image},
				} {
					if res, err := f.Run(args...); err != nil || res.Status != harness.StatusDone {
						t.Errorf("%v: %s", err, res)
						return
					}
					s.Forget()
				}
			}
		})
	}
	wg.Wait()
	for _, s := range all {
		if !t.Failed() {
			s.unharmed()
		}
	}
}

// TestRights: without the rights firn says which are missing.
func TestRights(t *testing.T) {
	s := startC(t, "tick")
	f := firn(t)
	if os.Geteuid() != 0 {
		t.Skip("the test gives up the rights of root, and has none")
	}
	dir := workDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	f.Prefix = []string{program(t, "setpriv"), "--reuid", "65534", "--regid", "65534", "--clear-groups", "--"}
	res := want(t, harness.StatusRights, f, "checkpoint", strconv.Itoa(s.PID), "-o", dir+"/image.firn")
	contains(t, res, res.Stderr, strconv.Itoa(s.PID), "CAP_SYS_PTRACE")
	s.unharmed()
}
