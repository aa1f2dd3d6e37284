package integration

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// cgroupMounts are the directories of the hierarchies, by a controller; that of
// v2 is "".
func cgroupMounts(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch f[2] {
		case "cgroup2":
			found[""] = f[1]
		case "cgroup":
			for _, o := range strings.Split(f[3], ",") {
				found[o] = f[1]
			}
		}
	}
	return found
}

// group is a cgroup of a test, with what is set in it.
type group struct {
	dir    string
	limits map[string]string
}

// groups makes groups, two levels deep, in all hierarchies that are there. They
// are removed at the end.
func groups(t *testing.T) []group {
	t.Helper()
	mounts, name := cgroupMounts(t), fmt.Sprintf("firn-test-%d", time.Now().UnixNano())
	var made []group
	for controller, limits := range map[string]map[string]string{
		"":       {"cgroup.max.depth": "7", "cgroup.max.descendants": "9", "pids.max": "77", "memory.max": "536870912", "cpu.weight": "50"},
		"pids":   {"pids.max": "77"},
		"memory": {"memory.limit_in_bytes": "536870912", "memory.memsw.limit_in_bytes": "1073741824", "memory.swappiness": "11"},
		"cpu":    {"cpu.shares": "512", "cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "100000"},
		"cpuset": {"cpuset.cpus": "0", "cpuset.mems": "0"},
	} {
		root, ok := mounts[controller]
		if !ok {
			continue
		}
		outer := group{filepath.Join(root, name), limits}
		inner := group{filepath.Join(outer.dir, "inner"), limits}
		for _, g := range []group{outer, inner} {
			if err := os.Mkdir(g.dir, 0o755); err != nil {
				t.Skipf("no cgroups can be made: %v", err)
			}
			t.Cleanup(func() { removeGroup(t, g.dir) })
			for _, file := range slices.Sorted(maps.Keys(limits)) {
				limits[file] = g.set(t, file, limits[file])
			}
		}
		if err := os.Chown(filepath.Join(inner.dir, "cgroup.procs"), 65534, 65534); err != nil {
			t.Fatal(err)
		}
		made = append(made, outer, inner)
	}
	if len(made) == 0 {
		t.Skip("no cgroup hierarchy is mounted")
	}
	return made
}

// set sets a limit and returns what the kernel made of it, or nothing if the
// group has none.
func (g group) set(t *testing.T, file, value string) string {
	t.Helper()
	path := filepath.Join(g.dir, file)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func removeGroup(t *testing.T, dir string) {
	t.Helper()
	deadline := time.Now().Add(grace)
	for {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Error(err)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (g group) has(t *testing.T, pid int) bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(strings.Fields(string(b)), strconv.Itoa(pid))
}

// enter moves all tasks of a subject into the inner groups.
func enter(t *testing.T, s *subject, all []group) {
	t.Helper()
	for _, g := range all {
		if filepath.Base(g.dir) != "inner" {
			continue
		}
		for _, pid := range s.pids() {
			if err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func removeAll(t *testing.T, all []group) {
	t.Helper()
	for _, g := range slices.Backward(all) {
		removeGroup(t, g.dir)
	}
}

// TestManageCgroups: groups that are not there any more are made again, with
// their limits and owners, and not without the flag.
func TestManageCgroups(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	all := groups(t) // removed after the subject has ended
	s := startC(t, "many", "processes", "4")
	enter(t, s, all)
	s.unharmed()
	for range 2 { // the second time of what was restored
		s.checkpoint()
		removeAll(t, all)
		s.restore("--manage-cgroups")
		s.unharmed()
		for _, g := range all {
			for _, pid := range s.pids() {
				if in := g.has(t, pid); in != (filepath.Base(g.dir) == "inner") {
					t.Errorf("task %d in %s: %v", pid, g.dir, in)
				}
			}
			for file, value := range g.limits {
				if b, err := os.ReadFile(filepath.Join(g.dir, file)); value != "" && (err != nil || strings.TrimSpace(string(b)) != value) {
					t.Errorf("%s of %s is %q, was %q: %v", file, g.dir, b, value, err)
				}
			}
			st, err := os.Stat(filepath.Join(g.dir, "cgroup.procs"))
			if err != nil {
				t.Fatal(err)
			}
			if uid := st.Sys().(*syscall.Stat_t).Uid; (uid == 65534) != (filepath.Base(g.dir) == "inner") {
				t.Errorf("%s belongs to %d", g.dir, uid)
			}
		}
	}
	s.checkpoint()
	removeAll(t, all)
	res := want(t, harness.StatusDone, firn(t), "restore", "-d", s.image)
	contains(t, res, res.Stderr, all[1].dir[len(filepath.Dir(all[0].dir)):], "it is not there", "--manage-cgroups")
	for _, g := range all {
		if _, err := os.Stat(g.dir); err == nil {
			t.Errorf("%s was made", g.dir)
		}
	}
	s.unharmed()
}

// TestManageCgroupsFails: a restore that fails removes the groups that it made.
func TestManageCgroupsFails(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	all := groups(t) // removed after the subject has ended
	s := startC(t, "many", "processes", "4")
	enter(t, s, all)
	s.checkpoint()
	removeAll(t, all)
	failed := 0
	for ms := 10; ms < 200; ms += 5 {
		res := run(t, firn(t), "restore", "-d", "--manage-cgroups", "--timeout", fmt.Sprintf("%dms", ms), s.image)
		if res.Status == harness.StatusDone {
			break
		}
		failed++
		for _, g := range all {
			if _, err := os.Stat(g.dir); err == nil {
				t.Fatalf("%s is still there: %s", g.dir, res)
			}
		}
	}
	if failed == 0 {
		t.Error("no restore failed")
	}
}

// freezerGroup is a v2 group for one subject.
func freezerGroup(t *testing.T) group {
	t.Helper()
	root, ok := cgroupMounts(t)[""]
	if !ok {
		t.Skip("cgroup v2 is not mounted")
	}
	g := group{dir: filepath.Join(root, fmt.Sprintf("firn-test-%d", time.Now().UnixNano()))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Skipf("no cgroups can be made: %v", err)
	}
	t.Cleanup(func() { removeGroup(t, g.dir) })
	return g
}

func (g group) add(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func (g group) freeze(t *testing.T, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, "cgroup.freeze"), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(grace)
	for !g.is(t, "frozen "+value) {
		if time.Now().After(deadline) {
			t.Fatalf("the group does not become frozen %s", value)
		}
		time.Sleep(time.Millisecond)
	}
}

func (g group) is(t *testing.T, event string) bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.events"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), event)
}

// still requires that a frozen subject does not run.
func still(t *testing.T, s *subject, g group, when string) {
	t.Helper()
	deadline := time.Now().Add(grace)
	for !g.is(t, "frozen 1") { // the kernel tells it once every task has arrived
		if time.Now().After(deadline) {
			t.Fatalf("the group is not frozen %s", when)
		}
		time.Sleep(time.Millisecond)
	}
	if d := s.Disturbed(); len(d) > 0 {
		t.Errorf("%s: %v", when, d)
	}
}

// TestFrozenCgroup: a tree that somebody has frozen is saved, and stays frozen.
func TestFrozenCgroup(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	g := freezerGroup(t)
	s := startC(t, "threads")
	g.add(t, s.pids()...)
	t.Cleanup(func() { g.freeze(t, "0") }) // or the subject cannot be swept
	g.freeze(t, "1")
	before := s.last()
	s.checkpoint("--leave-running")
	still(t, s, g, "after the checkpoint")
	if now := s.last(); now != before {
		t.Errorf("the frozen program went on from %d to %d", before, now)
	}
	g.freeze(t, "0")
	s.unharmed()
	g.freeze(t, "1")
	s.checkpoint()
	if !g.is(t, "frozen 1") {
		t.Error("the group was thawed")
	}
	removeGroup(t, g.dir)
	s.restore("--manage-cgroups")
	still(t, s, g, "after the restore")
	g.freeze(t, "0")
	s.unharmed()
}

// TestFrozenCgroupShared: a group that keeps others frozen as well cannot be
// thawed, not for a moment.
func TestFrozenCgroupShared(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	g := freezerGroup(t)
	s, other := startC(t, "tick"), startC(t, "tick")
	g.add(t, append(s.pids(), other.pids()...)...)
	t.Cleanup(func() { g.freeze(t, "0") })
	g.freeze(t, "1")
	res := want(t, harness.StatusRefused, firn(t), "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	contains(t, res, res.Stderr, g.dir, "outside of the tree", "thaw it")
	res = want(t, harness.StatusRefused, firn(t), "check", strconv.Itoa(s.PID))
	contains(t, res, res.Stdout, g.dir)
	still(t, s, g, "after it was refused")
	g.freeze(t, "0")
	s.unharmed()
	other.unharmed()
}

// TestFrozenCgroupV1: in a group that the freezer of cgroup v1 has frozen tasks
// do not stop for a tracer.
func TestFrozenCgroupV1(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	root, ok := cgroupMounts(t)["freezer"]
	if !ok {
		t.Skip("the freezer of cgroup v1 is not mounted")
	}
	g := group{dir: filepath.Join(root, fmt.Sprintf("firn-test-%d", time.Now().UnixNano()))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Skipf("no cgroups can be made: %v", err)
	}
	t.Cleanup(func() { removeGroup(t, g.dir) })
	s := startC(t, "tick")
	g.add(t, s.pids()...)
	t.Cleanup(func() { g.set(t, "freezer.state", "THAWED") })
	g.set(t, "freezer.state", "FROZEN")
	res := want(t, harness.StatusRefused, firn(t), "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	contains(t, res, res.Stderr, "frozen cgroup "+g.dir, "THAWED")
	g.set(t, "freezer.state", "THAWED")
	s.unharmed()
}
