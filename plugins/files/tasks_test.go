package files

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/kern"
)

func pidfd(t *testing.T, pid, flags int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, flags)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestPidfd(t *testing.T) {
	self := pidfd(t, os.Getpid(), unix.PIDFD_NONBLOCK)
	dead, err := kern.DeadPidfd(unix.WaitStatus(unix.SIGKILL), "/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	flags := fdtest.Flags(t, self)
	status, known := kern.PidfdExitStatus(dead)
	fdtest.Dump(t, New(), nil, self, dead).Restore()
	if p := fdinfoOf(t, self).Pidfd; p == nil || p.PID != os.Getpid() || fdtest.Flags(t, self) != flags {
		t.Errorf("pidfd %+v, flags %#o, want %#o", p, fdtest.Flags(t, self), flags)
	}
	if p := fdinfoOf(t, dead).Pidfd; p == nil || p.PID != -1 {
		t.Errorf("pidfd of a reaped process: %+v", p)
	}
	if now, ok := kern.PidfdExitStatus(dead); now != status || ok != known {
		t.Errorf("status %#x, was %#x", now, status)
	}
	outside := pidfd(t, os.Getppid(), 0)
	defer unix.Close(outside)
	blocked(t, outside, "which is outside the tree")
}

func TestNamespaces(t *testing.T) {
	var fds []int
	var want []string
	for _, name := range namespaceNames {
		fd := open(t, "/proc/self/ns/"+name, unix.O_RDONLY)
		fds, want = append(fds, fd), append(want, readlink(t, fd))
	}
	fdtest.Dump(t, New(), nil, fds...).Restore()
	for i, fd := range fds {
		if got := readlink(t, fd); got != want[i] {
			t.Errorf("leads to %s, want %s", got, want[i])
		}
	}
	for link, name := range map[string]string{"net:[1]": "net", "x:[1]": "", "pipe:[1]": "", "/a/net:[1]": "", "net": ""} {
		if got := namespaceName(link); got != name {
			t.Errorf("%s: %q", link, got)
		}
	}
}

// TestNamespaceOfNobody: a namespace that only a descriptor keeps is refused.
func TestNamespaceOfNobody(t *testing.T) {
	c := startChild(t, "own-uts", "")
	fd := open(t, fmt.Sprintf("/proc/%d/ns/uts", c.pid), unix.O_RDONLY)
	defer unix.Close(fd)
	blocked(t, fd, "a namespace without a process of the tree")
}
