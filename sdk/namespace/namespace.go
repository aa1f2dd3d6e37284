// Package namespace has what plugins that carry namespaces have in common: who
// lives in one, who owns it, how a plugin looks into it, and how the tasks of a
// restored tree make it and join it. See namespaces(7).
package namespace

import (
	"context"
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

// Restore makes the namespaces of a request, each with the tape that create
// returns, and has the processes that lived in it join it through a descriptor of
// this process. The first process makes it, or the keeper of the user namespace to
// which it belongs; one that the caller names ([Joined]) is there. flag is the
// CLONE_NEW* of the kind of namespace. All are made at the same time, then all who
// join them do.
func Restore(ctx context.Context, req *sdk.RestoreRequest, flag int,
	create func(r *sdk.Resource) (*tape.Tape, error)) error {
	var creators, members []tape.Run
	var shared, owned []*sdk.Resource
	made := map[*sdk.Resource]*os.File{}
	defer func() {
		for _, ns := range made {
			ns.Close()
		}
	}()
	for i := range req.Resources {
		r := &req.Resources[i]
		tasks := Members(req.Session, r)
		if len(tasks) == 0 {
			continue
		}
		if path, ok := Joined(req.Session, r); ok {
			ns, err := OpenPath(path, r.Namespace.Name, flag)
			if err != nil {
				return fmt.Errorf("%s namespace of task %d: %w", r.Namespace.Name, tasks[0].ID, err)
			}
			made[r] = ns
			members = join(members, req, ns, flag, tasks)
			continue
		}
		if r.Namespace.Owner != 0 {
			owned = append(owned, r)
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
		made[r] = ns
		members = join(members, req, ns, flag, tasks[1:])
	}
	for _, r := range owned {
		ns, err := createOwned(ctx, req, r, create)
		if err != nil {
			return err
		}
		made[r] = ns
		members = join(members, req, ns, flag, Members(req.Session, r))
	}
	return Run(ctx, req.Host, "join namespace", members)
}

func join(runs []tape.Run, req *sdk.RestoreRequest, ns *os.File, flag int, tasks []*sdk.Process) []tape.Run {
	for _, p := range tasks {
		runs = append(runs, tape.Run{TID: p.PID, Tape: Join(req.PluginFD, ns, flag)})
	}
	return runs
}

// createOwned has the keeper of the user namespace that owns a namespace make it,
// and opens it.
func createOwned(ctx context.Context, req *sdk.RestoreRequest, r *sdk.Resource,
	create func(r *sdk.Resource) (*tape.Tape, error)) (*os.File, error) {
	users := req.Tree.UserNamespace(r.Namespace.Owner)
	if users == nil || users.Keeper == 0 {
		return nil, fmt.Errorf("%s namespace %d belongs to user namespace %d, which is not there: %w",
			r.Namespace.Name, r.Object, r.Namespace.Owner, sdk.ErrCorrupt)
	}
	t, err := create(r)
	if err != nil {
		return nil, fmt.Errorf("%s namespace %d: %w", r.Namespace.Name, r.Object, err)
	}
	if err := Run(ctx, req.Host, "create namespace", []tape.Run{{TID: users.Keeper, Tape: t}}); err != nil {
		return nil, err
	}
	return Open(users.Keeper, r.Namespace.Name)
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
