package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/firn-cr/firn/host/integration/harness"
)

// crashes is how often the host and the plugins are killed.
const crashes = 200

// victim is a program whose checkpoint is disturbed.
type victim struct {
	*subject
	firn harness.Firn
	// usual is how long an undisturbed checkpoint takes, frozen how long the
	// program stands still in it.
	usual, frozen time.Duration
}

func startVictim(t *testing.T) *victim {
	t.Helper()
	onlyAMD64(t)
	v := &victim{subject: startC(t, "registers", "1"), firn: firn(t)}
	for range 3 {
		v.learn(want(t, harness.StatusDone, v.firn, v.args()...))
		v.removeImage()
	}
	return v
}

// learn takes the times of a checkpoint that ended undisturbed: they are
// averages that follow the load of the machine.
func (v *victim) learn(res harness.Result) {
	v.t.Helper()
	var c harness.Checkpoint
	if err := res.Decode(&c); err != nil {
		v.t.Fatal(err)
	}
	frozen := time.Duration(c.FrozenMS * float64(time.Millisecond))
	if v.usual == 0 {
		v.usual, v.frozen = res.Took, frozen
	}
	v.usual, v.frozen = (3*v.usual+res.Took)/4, (3*v.frozen+frozen)/4
}

func (v *victim) args() []string {
	return []string{"checkpoint", strconv.Itoa(v.PID), "-o", v.image, "--leave-running", "--no-sync", "--json"}
}

// removeImage requires that an image, if there is one, is whole.
func (v *victim) removeImage() (existed bool) {
	v.t.Helper()
	if _, err := os.Lstat(v.image); err != nil {
		return false
	}
	want(v.t, harness.StatusDone, v.firn, "verify", v.image)
	if err := os.Remove(v.image); err != nil {
		v.t.Fatal(err)
	}
	return true
}

// survived requires that the program goes on, that nothing is stopped or
// traced, that nothing of firn runs and that no file lies around.
func (v *victim) survived(session int) {
	v.t.Helper()
	if err := harness.WaitSession(session, grace); err != nil {
		v.t.Fatal(err)
	}
	v.ticks(2)
	if d := v.Disturbed(); len(d) > 0 {
		v.t.Fatalf("left stopped or traced: %v", d)
	}
	v.removeImage()
	if left, err := os.ReadDir(filepath.Dir(v.image)); err != nil || len(left) > 0 {
		v.t.Fatalf("left beside the image: %v, %v", left, err)
	}
}

// await waits until a random moment of a checkpoint that was just started: of
// all of it when n is even, of the time in which the program stands still when
// n is odd. It says which moment it was.
func (v *victim) await(r *harness.Run, n int) string {
	start := time.Now()
	if n%2 == 0 {
		at := time.Duration(rand.Int64N(int64(v.usual) * 11 / 10))
		time.Sleep(at)
		return fmt.Sprintf("after %s of about %s", at, v.usual)
	}
	for !harness.Traced(v.PID) && harness.Exists(r.PID()) && time.Since(start) < 2*v.usual {
		time.Sleep(50 * time.Microsecond)
	}
	at := time.Duration(rand.Int64N(int64(v.frozen) * 12 / 10))
	time.Sleep(at)
	return fmt.Sprintf("%s after the first task was seized, of about %s", at, v.frozen)
}

// TestCrashHost kills firn with SIGKILL at random moments of a checkpoint.
func TestCrashHost(t *testing.T) {
	v := startVictim(t)
	before := mappings(t, v.PID)
	finished := 0
	var what string
	defer func() {
		if t.Failed() {
			t.Log(what)
		}
	}()
	for n := range crashes * soak() {
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
			finished++
			v.learn(res)
		}
		what = fmt.Sprintf("firn was killed %s: %s", at, res)
		v.survived(r.PID())
	}
	t.Logf("%d checkpoints of about %s, %d finished before the kill; mappings: %d, were %d",
		crashes*soak(), v.usual, finished, mappings(t, v.PID), before)
	v.cycle()
	v.unharmed()
	noStaleSockets(t, v.firn)
}

// noStaleSockets requires that a later firn removes the directories of sockets
// that killed ones left. A host that runs has a lock on its own.
func noStaleSockets(t *testing.T, f harness.Firn) {
	t.Helper()
	want(t, harness.StatusDone, f, "plugin", "list")
	dirs, err := filepath.Glob("/run/firn/host-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		d, err := os.Open(dir)
		if err != nil {
			continue // its host has just removed it
		}
		if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil && exists(dir) {
			t.Errorf("%s belongs to no running firn", dir)
		}
		_ = d.Close()
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// mappings counts the lines of /proc/PID/maps.
func mappings(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "maps"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\n")
}

// plugins returns the plugin processes of a running firn.
func plugins(session int) []harness.Process {
	var found []harness.Process
	for _, p := range harness.InSession(session) {
		exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.PID), "exe"))
		if err == nil && strings.HasPrefix(filepath.Base(exe), "firn-plugin-") {
			found = append(found, p)
		}
	}
	return found
}

// TestCrashPlugin kills one plugin with SIGKILL at random moments.
func TestCrashPlugin(t *testing.T) {
	v := startVictim(t)
	killed, finished := 0, 0
	var what string
	defer func() {
		if t.Failed() {
			t.Log(what)
		}
	}()
	for n := range 10 * crashes * soak() {
		if killed == crashes*soak() {
			break
		}
		r, err := v.firn.Start(v.args()...)
		if err != nil {
			t.Fatal(err)
		}
		at := v.await(r, n)
		name := "none"
		if victims := plugins(r.PID()); len(victims) > 0 {
			killed++
			victim := victims[rand.IntN(len(victims))]
			name = victim.Comm
			_ = syscall.Kill(victim.PID, syscall.SIGKILL)
		}
		res, err := r.Wait()
		if err != nil {
			t.Fatal(err)
		}
		existed := v.removeImage()
		switch {
		case res.Status == harness.StatusDone && existed:
			finished++
			v.learn(res)
		case res.Status == harness.StatusDone:
			t.Fatalf("no image although firn reports success: %s", res)
		case existed:
			t.Fatalf("an image although firn reports failure: %s", res)
		case res.Status != harness.StatusFailed && res.Status != harness.StatusPlugin:
			t.Fatalf("%s was killed %s: %s", name, at, res)
		case name == "none":
			t.Fatalf("failed although no plugin was killed: %s", res)
		}
		what = fmt.Sprintf("%s was killed %s: %s", name, at, res)
		v.survived(r.PID())
	}
	t.Logf("%d plugins killed, %d checkpoints finished all the same", killed, finished)
	if killed < crashes*soak() {
		t.Errorf("only %d plugins were found alive", killed)
	}
	v.cycle()
	v.unharmed()
}

// TestHangingPlugin stops a plugin: the checkpoint times out, is rolled back,
// and the program goes on.
func TestHangingPlugin(t *testing.T) {
	v := startVictim(t)
	hung := 0
	for n := range 12 * soak() {
		r, err := v.firn.Start(append(v.args(), "--timeout", "1s")...)
		if err != nil {
			t.Fatal(err)
		}
		v.await(r, n)
		if victims := plugins(r.PID()); len(victims) > 0 {
			hung++
			_ = syscall.Kill(victims[rand.IntN(len(victims))].PID, syscall.SIGSTOP)
		}
		res, err := r.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if res.Status != harness.StatusDone && res.Status != harness.StatusTimeout && res.Status != harness.StatusFailed && res.Status != harness.StatusPlugin {
			t.Fatalf("a plugin was stopped: %s", res)
		}
		if res.Took > 30*time.Second {
			t.Errorf("took %s with a timeout of 1 s: %s", res.Took, res)
		}
		v.survived(r.PID())
	}
	t.Logf("%d plugins stopped", hung)
}

// TestCrashRestore kills firn at random moments of a restore: either the tree
// runs, as a whole, or nothing of it exists.
func TestCrashRestore(t *testing.T) {
	v := startVictim(t)
	v.checkpoint()
	var usual time.Duration
	running := 0
	for i := range 50 * soak() {
		ticks := v.last()
		r, err := v.firn.Start("restore", "-d", v.image)
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
		if v.settles(ticks) {
			running++
			v.unharmed()
		}
		if err := v.Sweep(); err != nil {
			t.Fatal(err)
		}
		if err := harness.WaitGone(v.PID); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d restores of about %s, %d ran", 50*soak(), usual, running)
}

// settles waits until the subject either ticks or does not exist.
func (v *victim) settles(ticks int) (running bool) {
	v.t.Helper()
	deadline := time.Now().Add(grace)
	for time.Now().Before(deadline) {
		if !harness.Exists(v.PID) && len(harness.Marked(v.Mark)) == 0 {
			return false
		}
		if v.last() != ticks && harness.Exists(v.PID) {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	p, err := harness.ReadProcess(v.PID)
	v.t.Fatalf("process %d neither runs nor is gone: %+v, %v, disturbed %v", v.PID, p, err, v.Disturbed())
	return false
}
