package procfs

import (
	"os"
	"testing"
)

func TestCgroups(t *testing.T) {
	got := ParseCgroups([]byte("9:name=systemd:/a:b\n1:cpu,cpuacct:/\n0::/x\nnonsense\n"))
	if len(got) != 3 || got[0].Path != "/a:b" || got[1].Controllers != "cpu,cpuacct" || got[2].Controllers != "" {
		t.Errorf("cgroups %v", got)
	}
	if _, err := Cgroups(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func TestCgroupDir(t *testing.T) {
	mounts := []Mount{
		{FS: "tmpfs", Root: "/", Point: "/sys/fs/cgroup"},
		{FS: "cgroup", Super: "rw,cpu,cpuacct", Root: "/", Point: "/sys/fs/cgroup/cpu"},
		{FS: "cgroup2", Root: "/inside", Point: "/sys/fs/cgroup/unified"},
	}
	for _, c := range []struct {
		g         Cgroup
		dir, text string
	}{
		{Cgroup{"cpu,cpuacct", "/a/b"}, "/sys/fs/cgroup/cpu/a/b", ""},
		{Cgroup{"memory", "/a"}, "", "the hierarchy is not mounted"},
		{Cgroup{"", "/inside/c"}, "/sys/fs/cgroup/unified/c", ""},
		{Cgroup{"", "/c"}, "", "the group is outside the mount"},
		{Cgroup{"cpu", "/../a"}, "/sys/fs/cgroup/cpu/a", ""},
		{Cgroup{"cpu", "a"}, "", "the group is outside the mount"},
	} {
		if dir, text := c.g.Dir(mounts); dir != c.dir || text != c.text {
			t.Errorf("%v: %q, %q", c.g, dir, text)
		}
	}
}

func FuzzCgroups(f *testing.F) {
	f.Add([]byte("9:name=systemd:/a:b\n0::/x\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		mounts := []Mount{{FS: "cgroup2", Root: "/", Point: "/c"}}
		for _, g := range ParseCgroups(b) {
			_, _ = g.Dir(mounts)
		}
	})
}
