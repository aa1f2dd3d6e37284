// Package namespace has what plugins that carry namespaces have in common: who
// lives in one, who owns it, how a plugin looks into it, and how the tasks of a
// restored tree make it and join it. See namespaces(7).
package namespace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/tape"
)

// Members are the processes in a namespace that are not zombies, in the order
// of the tree; none if the resource is no namespace.
func Members(s *sdk.Session, r *sdk.Resource) []*sdk.Process {
	if r.Kind != sdk.KindNamespace || r.Namespace == nil {
		return nil
	}
	var members []*sdk.Process
	for _, id := range r.Namespace.Tasks {
		if p := s.Tree.Process(id); p != nil && !p.Zombie {
			members = append(members, p)
		}
	}
	return members
}

// Open opens a namespace of a task, by its name in /proc/PID/ns. The caller
// closes it.
func Open(pid int, name string) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	return ns, nil
}

// Inode is the number that tells a namespace of a task from all others of the
// machine.
func Inode(pid int, name string) (uint64, error) {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		return 0, fmt.Errorf("read namespace: %w", err)
	}
	_, rest, _ := strings.Cut(link, ":[")
	ino, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("namespace link %q: %w", link, sdk.ErrCorrupt)
	}
	return ino, nil
}

// Within runs f on a thread of its own that has entered a namespace with
// setns(2), of one of the kinds that a process with many threads may enter: UTS,
// IPC, network, cgroup. See [kern.OnThread].
func Within(ns *os.File, f func() error) error {
	return kern.OnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), 0); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		return f()
	})
}

// Foreign tells whether the user namespace that owns a task's namespace is not
// the plugin's own: who has rights over it would change (ioctl_nsfs(2)).
func Foreign(pid int, name string) (bool, error) {
	ns, err := Open(pid, name)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	owner, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) {
		return true, nil // not below the plugin's own
	}
	if err != nil {
		return false, fmt.Errorf("read owner of namespace: %w", err)
	}
	defer unix.Close(owner)
	var theirs, own unix.Stat_t
	if err := unix.Fstat(owner, &theirs); err != nil {
		return false, fmt.Errorf("stat owner of namespace: %w", err)
	}
	if err := unix.Stat("/proc/self/ns/user", &own); err != nil {
		return false, fmt.Errorf("stat own user namespace: %w", err)
	}
	return theirs.Ino != own.Ino || theirs.Dev != own.Dev, nil
}

// Restore makes the namespaces of a request in the first process that lived in
// each, with the tape that create returns, and has the others join it through a
// descriptor of this process. flag is the CLONE_NEW* of the kind of namespace. All
// are made at the same time, then all who join them do.
func Restore(ctx context.Context, req *sdk.RestoreRequest, flag int,
	create func(r *sdk.Resource) (*tape.Tape, error)) error {
	var creators, members []tape.Run
	var shared []*sdk.Resource
	for i := range req.Resources {
		r := &req.Resources[i]
		tasks := Members(req.Session, r)
		if len(tasks) == 0 {
			continue
		}
		t, err := create(r)
		if err != nil {
			return fmt.Errorf("%s namespace of task %d: %w", r.Namespace.Name, tasks[0].ID, err)
		}
		creators = append(creators, tape.Run{TID: tasks[0].PID, Tape: t})
		if len(tasks) > 1 {
			shared = append(shared, r)
		}
	}
	if err := Run(ctx, req.Host, "create namespace", creators); err != nil {
		return err
	}
	for _, r := range shared {
		tasks := Members(req.Session, r)
		ns, err := Open(tasks[0].PID, r.Namespace.Name)
		if err != nil {
			return fmt.Errorf("%s namespace of task %d: %w", r.Namespace.Name, tasks[0].ID, err)
		}
		defer ns.Close()
		for _, p := range tasks[1:] {
			members = append(members, tape.Run{TID: p.PID, Tape: Join(req.PluginFD, ns, flag)})
		}
	}
	return Run(ctx, req.Host, "join namespace", members)
}

// Join is the tape that enters a namespace that is open in this process, of which
// the tasks have the pidfd pluginFD. The processes of a tree cannot always name
// each other: it may have several PID namespaces.
func Join(pluginFD int, ns *os.File, flag int) *tape.Tape {
	t := &tape.Tape{}
	fd := t.Call(unix.SYS_PIDFD_GETFD, tape.Imm(pluginFD), tape.Imm(int(ns.Fd())), tape.Imm(0))
	t.Call(unix.SYS_SETNS, fd.Arg(), tape.Imm(flag))
	t.Call(unix.SYS_CLOSE, fd.Arg())
	return t
}

// Run runs tapes of which all must run to their ends.
func Run(ctx context.Context, host sdk.Host, what string, runs []tape.Run) error {
	if len(runs) == 0 {
		return nil
	}
	outcomes, err := host.RunTapes(ctx, runs)
	if err != nil {
		return err
	}
	if len(outcomes) != len(runs) {
		return fmt.Errorf("%d outcomes of %d tapes: %w", len(outcomes), len(runs), sdk.ErrCorrupt)
	}
	for i := range outcomes {
		if err := outcomes[i].Err; err != nil {
			return fmt.Errorf("%s in task %d: %w", what, runs[i].TID, err)
		}
	}
	return nil
}
