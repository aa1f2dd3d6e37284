package integration

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestLive: the memory in an image is that of one instant, although it is copied
// while several threads write to it; and the program notices nothing, no child
// that it does not know either.
func TestLive(t *testing.T) {
	onlyAMD64(t)
	s := startC(t, "ledger", "3", "4000")
	for n := range 4 * soak() {
		args := []string{"--live"}
		if n%2 == 1 {
			args = append(args, "--deferred", "--compress", "zstd:1")
		}
		s.checkpoint(append(args, "--leave-running")...)
		s.ticks(2)
		if d := s.Disturbed(); len(d) > 0 {
			t.Fatalf("left stopped or traced: %v", d)
		}
		s.alone()
		// What was saved goes on from there.
		s.end()
		s.restore()
		s.unharmed()
	}
}

// end ends the program, which an image has.
func (s *subject) end() {
	s.t.Helper()
	pids := s.pids()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
			s.t.Fatal(err)
		}
	}
	until(s.t, "the program has ended", func() bool {
		return !slices.ContainsFunc(pids, harness.Exists)
	})
	s.Forget()
}

// alone requires that the program has no process that it did not create.
func (s *subject) alone() {
	s.t.Helper()
	until(s.t, "no copy of the program is left", func() bool {
		list, err := filepath.Glob("/proc/[0-9]*/exe")
		if err != nil {
			s.t.Fatal(err)
		}
		own, err := os.Readlink("/proc/" + strconv.Itoa(s.PID) + "/exe")
		if err != nil {
			s.t.Fatal(err)
		}
		count := 0
		for _, l := range list {
			dir := filepath.Dir(l)
			if exe, err := os.Readlink(l); err != nil || exe != own {
				continue
			}
			if cwd, err := os.Readlink(dir + "/cwd"); err == nil && cwd == s.Dir {
				count++
			}
		}
		return count == 1
	})
}

// TestLiveCrash: firn is killed at random moments of a live checkpoint.
func TestLiveCrash(t *testing.T) {
	onlyAMD64(t)
	f := firn(t)
	s := startC(t, "ledger", "2", "1000")
	args := []string{"checkpoint", strconv.Itoa(s.PID), "-o", s.image, "--live", "--no-sync", "--json"}
	want(t, harness.StatusDone, f, args...)
	usual := want(t, harness.StatusDone, f, args...).Took
	if err := os.Remove(s.image); err != nil {
		t.Fatal(err)
	}
	for range 20 * soak() {
		r, err := f.Start(args...)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(usual))))
		_ = r.Kill() // else: it has ended
		res, err := r.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if err := harness.WaitSession(res.PID, grace); err != nil {
			t.Fatal(err)
		}
		s.ticks(1)
		if d := s.Disturbed(); len(d) > 0 {
			t.Fatalf("left stopped or traced: %v", d)
		}
		s.alone()
		_ = os.Remove(s.image) // else: it was not finished
		s.only(s.image)
	}
	s.unharmed()
}
