package task

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// threadNamespaces are the namespaces that a thread can have for itself, by
// their names in /proc/PID/ns, with the name of what the main thread must have
// for it. Two are those of future children. The time namespace is one for all:
// threads are born into that of their creator (copy_namespaces in
// kernel/nsproxy.c), and only a single thread may enter another. Whole processes
// in namespaces are the business of the plugins that claim them.
var threadNamespaces = []struct{ name, main string }{
	{"cgroup", "cgroup"}, {"ipc", "ipc"}, {"mnt", "mnt"}, {"net", "net"}, {"uts", "uts"},
	{forChildren, "pid"}, {"time_for_children", "time"},
}

// forChildren is the PID namespace of future children. That of the main thread is
// that of the process and, as all PID namespaces, the host's.
const forChildren = "pid_for_children"

// ownNamespaces notes the namespaces of the main thread.
func (x *examination) ownNamespaces() error {
	return readNamespaces(x.proc.PID, func(dir int) error {
		for _, ns := range threadNamespaces {
			id, err := namespaceID(dir, ns.main)
			if err != nil {
				return err
			}
			x.namespaces = append(x.namespaces, id)
		}
		return nil
	})
}

// threadNamespaces reports a thread that left a namespace of its main thread,
// and children that would be born into another one than their parent's.
func (x *examination) threadNamespaces(i int) error {
	if len(x.namespaces) != len(threadNamespaces) {
		return nil // the process has ended
	}
	return readNamespaces(x.proc.Threads[i].TID, func(dir int) error {
		for n, ns := range threadNamespaces {
			if i == 0 && (ns.name == ns.main || ns.name == forChildren) {
				continue // what others are compared with, or the host carries
			}
			own, err := namespaceID(dir, ns.name)
			if err != nil {
				return err
			}
			main := x.namespaces[n]
			if own == "" && main != "" {
				own = "a new one" // the kernel shows no PID namespace before its first process
			}
			if own != main && !x.frozen {
				if mnt, err := namespaceID(dir, "mnt"); err != nil || mnt == "" {
					return nil //nolint:nilerr // the task has ended, and is in no namespace
				}
			}
			if own != main {
				x.block(i, ns.name+" namespace", fmt.Sprintf("%s is not the %s of the main thread", own, main), "")
			}
		}
		return nil
	})
}

// readNamespaces calls f with the directory of a task's namespaces.
func readNamespaces(tid int, f func(dir int) error) error {
	dir, err := unix.Open(fmt.Sprintf("/proc/%d/ns", tid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open namespaces: %w", err)
	}
	defer unix.Close(dir)
	return f(dir)
}

// namespaceID identifies a namespace; empty where the kernel does not have that
// kind.
func namespaceID(dir int, name string) (string, error) {
	var buf [64]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s namespace: %w", name, err)
	}
	return string(buf[:n]), nil
}
