package cgroups

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

func TestLineage(t *testing.T) {
	var paths []string
	for _, g := range Lineage(&taskpb.Cgroup{Path: []byte("/a/b/c")}) {
		paths = append(paths, string(g.GetPath()))
	}
	if got := strings.Join(paths, " "); got != "/a /a/b /a/b/c" {
		t.Error(got)
	}
	for _, path := range []string{"/", "", "/..", "a"} {
		if got := Lineage(&taskpb.Cgroup{Path: []byte(path)}); path != "/.." && len(got) != 0 {
			t.Errorf("%q: %v", path, got)
		}
	}
}

func TestSettable(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"pids.max", "max", "max"},
		{"cpuset.cpus", "", ""},
		{"cgroup.type", "domain invalid", "-"},
		{"cgroup.type", "threaded", "threaded"},
		{"memory.oom_control", "oom_kill_disable 1\nunder_oom 0", "1"},
		{"freezer.state", "FREEZING", "FROZEN"},
	} {
		got := settable(c.name, []byte(c.text))
		if c.want == "-" && got != nil || c.want != "-" && (got == nil || string(got) != c.want) {
			t.Errorf("%s: %q is %q, want %q", c.name, c.text, got, c.want)
		}
	}
}

// fake is a directory that stands for a v1 hierarchy with controller "x".
func fake(t *testing.T) (string, []procfs.Mount) {
	t.Helper()
	dir := t.TempDir()
	return dir, []procfs.Mount{{FS: "cgroup", Super: "rw,x", Root: "/", Point: dir}}
}

func group(path string, properties ...*taskpb.CgroupProperty) *taskpb.CgroupDirectory {
	return &taskpb.CgroupDirectory{Group: &taskpb.Cgroup{Controllers: "x", Path: []byte(path)}, Mode: 0o755,
		Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()), Properties: properties}
}

// TestFailureRemoves: what was made is gone again, what was there is not.
func TestFailureRemoves(t *testing.T) {
	root, mounts := fake(t)
	if err := os.Mkdir(filepath.Join(root, "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := &Made{}
	err := m.Create(mounts, []*taskpb.CgroupDirectory{
		group("/old"), group("/old/new"), group("/old/new/deep", &taskpb.CgroupProperty{Name: "x.max", Value: []byte("1")}),
	})
	if err == nil || !strings.Contains(err.Error(), "controller x is not enabled") {
		t.Errorf("error %v", err)
	}
	if err := m.Remove(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "old"))
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestValid(t *testing.T) {
	if err := Valid(group("/a", &taskpb.CgroupProperty{Name: "x.max"})); err != nil {
		t.Error(err)
	}
	for name, d := range map[string]*taskpb.CgroupDirectory{
		"no group":      {},
		"path":          group("/a", &taskpb.CgroupProperty{Name: "../b/x.max"}),
		"no name":       group("/a", &taskpb.CgroupProperty{}),
		"endless value": group("/a", &taskpb.CgroupProperty{Name: "x", Value: make([]byte, maxProperty+1)}),
	} {
		if err := Valid(d); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
