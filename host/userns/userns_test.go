package userns

import (
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// sleeper starts a process in new namespaces and ends it with the test.
func sleeper(t *testing.T, attr *syscall.SysProcAttr) task.HostPID {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return task.HostPID(cmd.Process.Pid)
}

func process(pid task.HostPID) *task.Process {
	return &task.Process{PID: pid, Threads: []*task.Thread{{TID: pid}}}
}

func TestRead(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 100000, Size: 10}}
	in := sleeper(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWUTS, UidMappings: ids, GidMappings: ids[:1]})
	out := sleeper(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS})
	v, err := Read([]*task.Process{process(out), process(in)}, true)
	if err != nil {
		t.Fatal(err)
	}
	if v.Of(out) != 0 || v.Of(in) != 1 || len(v.Namespaces) != 1 {
		t.Fatalf("in %d and %d of %v", v.Of(out), v.Of(in), v.Namespaces)
	}
	ns := v.Namespaces[0]
	uids := sdk.IDMap{{Inside: 0, Outside: 1000, Count: 1}, {Inside: 1, Outside: 100000, Count: 10}}
	if !slices.Equal(ns.UIDs, uids) || !slices.Equal(ns.GIDs, uids[:1]) || !ns.SetgroupsDenied ||
		ns.Parent != 0 || ns.Owner != uint32(os.Geteuid()) {
		t.Errorf("%+v", ns)
	}
	if text := v.WhyNot(1); text != "" {
		t.Errorf("is not carried: it %s", text)
	}
	for pid, want := range map[task.HostPID]int{out: 0, in: 1} {
		if n, ok, err := v.Owner(int(pid), "uts"); n != want || !ok || err != nil {
			t.Errorf("UTS namespace of %d belongs to %d, %v, %v, want %d", pid, n, ok, err, want)
		}
	}
	ino, err := namespace.Inode(int(in), nsName)
	if err != nil || !v.Carries(ino) || v.Carries(v.own) {
		t.Errorf("%v, carries %d: %v", err, ino, v.Carries(ino))
	}
}

func TestReadWhatHasEnded(t *testing.T) {
	self := task.HostPID(os.Getpid())
	ended := task.HostPID(1 << 30)
	if v, err := Read([]*task.Process{process(self), process(ended)}, false); err != nil || v.Of(ended) != 0 || len(v.Namespaces) != 0 {
		t.Errorf("%v, %v", v, err)
	}
	if _, err := Read([]*task.Process{process(self), process(ended)}, true); err == nil {
		t.Error("a process of a frozen tree that is gone is no error")
	}
}

// TestWithoutMembers: a namespace of which only what belongs to it is known.
func TestWithoutMembers(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	in := sleeper(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWUTS})
	v, err := Read([]*task.Process{process(task.HostPID(os.Getpid()))}, true)
	if err != nil {
		t.Fatal(err)
	}
	if n, ok, err := v.Owner(int(in), "uts"); n != 1 || !ok || err != nil {
		t.Fatalf("%d, %v, %v", n, ok, err)
	}
	if v.WhyNot(1) == "" {
		t.Error("it is carried although nobody knows its users")
	}
}
