package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// A process enters its user namespace as late as it can: it has no rights outside
// any more then, but must not have a second thread yet (userns_install in
// kernel/user_namespace.c). Until then there is a keeper for each namespace.

// keeper is a process that exists while the tree is rebuilt. It makes a user
// namespace and lives in it, with all rights there, or has the restorer's rights
// where the tree lives.
type keeper struct {
	sdk.Process
	// ns is its user namespace by its place in the tree, counted from 1; 0 is the
	// restorer's.
	ns int
	// gadget is a system call instruction in it, and memory what it shares with
	// the host.
	gadget uint64
	memory task.Slice
}

// call has a keeper make a system call.
func (k *keeper) call(o *task.Ops, nr int, args ...uint64) (uint64, error) {
	return o.Syscall(task.HostPID(k.PID), k.gadget, nr, args...)
}

// open has a keeper open a file.
func (k *keeper) open(o *task.Ops, path string, flags int) (fd uint64, err error) {
	copy(k.memory.Mem, path+"\x00")
	at := unix.AT_FDCWD
	return k.call(o, unix.SYS_OPENAT, uint64(at), k.memory.Addr, uint64(flags|unix.O_CLOEXEC))
}

// write has a keeper write a file, by one call.
func (k *keeper) write(o *task.Ops, path string, text []byte) error {
	fd, err := k.open(o, path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	copy(k.memory.Mem, text)
	if _, err := k.call(o, unix.SYS_WRITE, fd, k.memory.Addr, uint64(len(text))); err != nil {
		return err
	}
	_, err = k.call(o, unix.SYS_CLOSE, fd)
	return err
}

// planKeepers gives every user namespace a keeper, and the tree one with the
// restorer's rights if processes in user namespaces have threads. Their IDs are
// below limit and not used by anybody.
func planKeepers(tree *sdk.Tree, used func(sdk.TaskID) bool, limit sdk.TaskID) []keeper {
	if len(tree.UserNamespaces) == 0 {
		return nil
	}
	taken := map[sdk.TaskID]bool{}
	threads := false
	for i := range tree.Processes {
		p := &tree.Processes[i]
		taken[p.ID], taken[p.PGID], taken[p.SID] = true, true, true
		for _, t := range p.Threads {
			taken[t.ID] = true
		}
		threads = threads || p.UserNamespace != 0 && (len(p.Threads) > 1 || p.MainExited())
	}
	var keepers []keeper
	id := limit
	add := func(ns int) {
		for id--; id > 0 && (taken[id] || used(id)); id-- {
			continue
		}
		keepers = append(keepers, keeper{ns: ns, Process: sdk.Process{
			ID: id, Threads: []sdk.Thread{{ID: id}}, Reserved: tree.Processes[0].Reserved,
		}})
	}
	for n := range tree.UserNamespaces {
		add(n + 1)
	}
	if threads {
		add(0)
	}
	return keepers
}

// counter is the keeper with the restorer's rights.
func (r *flow) counter() *keeper { return &r.keepers[len(r.keepers)-1] }

// makeKeepers creates the keepers and the user namespaces.
func (s *spawner) makeKeepers() error {
	for i := range s.keepers {
		k := &s.keepers[i]
		pid, err := s.ops.Clone(&task.Clone{
			From: s.seed.PID, Gadget: s.seed.Gadget, Scratch: s.seed.Scratch, Flags: unix.CLONE_PARENT,
			IDs: []uint32{uint32(k.ID)}, Inside: s.ns != nil,
		})
		s.keep(k.ID, pid)
		if err != nil {
			return err
		}
		k.PID, k.Threads[0].TID = int(pid), int(pid)
		if err := s.mapRegion(&k.Process); err != nil {
			return err
		}
		k.gadget, k.memory = s.seed.Gadget, s.regions.main(&k.Process)
		if k.ns == 0 {
			continue
		}
		if err := s.makeUserNamespace(k); err != nil {
			return fmt.Errorf("user namespace %d: %w", k.ns, err)
		}
		s.tree.UserNamespaces[k.ns-1].Keeper = k.PID
	}
	return nil
}

// makeUserNamespace has a keeper make its user namespace as the user who made it,
// who has rights over it for ever.
func (s *spawner) makeUserNamespace(k *keeper) error {
	ns := &s.tree.UserNamespaces[k.ns-1]
	owner, group := ns.Owner, uint32(0)
	parent := s.tree.UserNamespace(ns.Parent)
	if parent != nil {
		if err := s.enterUserNamespace(k, parent); err != nil {
			return fmt.Errorf("enter the one around it: %w", err)
		}
		var ok bool
		if owner, ok = parent.UIDs.Inside(owner); !ok || len(parent.GIDs) == 0 {
			return fmt.Errorf("its owner %d, or every group, has no number in the one around it: %w", ns.Owner, sdk.ErrCorrupt)
		}
		group = parent.GIDs[0].Inside
	}
	const dumpable = 1
	for _, c := range []struct {
		what string
		nr   int
		args []uint64
	}{
		{"become a group of it", unix.SYS_SETRESGID, []uint64{uint64(group), uint64(group), uint64(group)}},
		{"become its owner", unix.SYS_SETRESUID, []uint64{uint64(owner), uint64(owner), uint64(owner)}},
		{"create", unix.SYS_UNSHARE, []uint64{unix.CLONE_NEWUSER}},
		// Who is around has to write its maps.
		{"open /proc to its owner", unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, dumpable}},
	} {
		_, err := k.call(s.ops, c.nr, c.args...)
		if errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("%s: raise user.max_user_namespaces: %w", c.what, err)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
	}
	return s.writeMaps(k, parent)
}

func (s *spawner) enterUserNamespace(k *keeper, ns *sdk.UserNamespace) error {
	fd, err := k.open(s.ops, userLink(ns), unix.O_RDONLY)
	if err != nil {
		return err
	}
	if _, err := k.call(s.ops, unix.SYS_SETNS, fd, unix.CLONE_NEWUSER); err != nil {
		return err
	}
	_, err = k.call(s.ops, unix.SYS_CLOSE, fd)
	return err
}

func userLink(ns *sdk.UserNamespace) string { return fmt.Sprintf("/proc/%d/ns/user", ns.Keeper) }

// writeMaps gives users and groups numbers in a keeper's namespace. That is a
// right of who lives in the one around it.
func (s *spawner) writeMaps(k *keeper, parent *sdk.UserNamespace) error {
	ns := &s.tree.UserNamespaces[k.ns-1]
	outerUIDs, outerGIDs := sdk.IDMap(nil), sdk.IDMap(nil)
	if parent != nil {
		outerUIDs, outerGIDs = parent.UIDs, parent.GIDs
	}
	uids, err := mapText(ns.UIDs, outerUIDs, parent != nil)
	if err != nil {
		return err
	}
	gids, err := mapText(ns.GIDs, outerGIDs, parent != nil)
	if err != nil {
		return err
	}
	var groups []byte
	if ns.SetgroupsDenied {
		groups = []byte("deny")
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{"setgroups", groups}, {"gid_map", gids}, {"uid_map", uids}} { // setgroups does not change after gid_map
		if len(f.text) == 0 {
			continue
		}
		path := fmt.Sprintf("/proc/%d/%s", k.PID, f.name)
		if parent == nil {
			err = os.WriteFile(path, f.text, 0)
		} else {
			err = s.keeperOf(ns.Parent).write(s.ops, path, f.text)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return nil
}

func (s *spawner) keeperOf(ns int) *keeper {
	for i := range s.keepers {
		if s.keepers[i].ns == ns {
			return &s.keepers[i]
		}
	}
	return nil
}

// mapText is what is written into uid_map or gid_map: with numbers of the
// namespace around it.
func mapText(ids, outer sdk.IDMap, nested bool) ([]byte, error) {
	var text bytes.Buffer
	for _, r := range ids {
		out := r.Outside
		if nested {
			first, ok := outer.Inside(out)
			last, also := outer.Inside(out + r.Count - 1)
			if !ok || !also || last-first != r.Count-1 {
				return nil, fmt.Errorf("%d ids from %d on have no numbers in the user namespace around it: %w", r.Count, out, sdk.ErrCorrupt)
			}
			out = first
		}
		fmt.Fprintf(&text, "%d %d %d\n", r.Inside, out, r.Count)
	}
	return text.Bytes(), nil
}

// inUserNamespace tells whether a process of the tree is to enter one.
func inUserNamespace(p *sdk.Process) bool { return p.UserNamespace != 0 && !p.Zombie }

// enterUsers has processes enter their user namespaces.
func (r *flow) enterUsers(ctx context.Context) error {
	var runs []tape.Run
	var who []sdk.TaskID
	for i := range r.tree.Processes {
		p := &r.tree.Processes[i]
		if !inUserNamespace(p) {
			continue
		}
		t := &tape.Tape{}
		link := t.String(userLink(r.tree.UserNamespace(p.UserNamespace)))
		fd := t.Call(unix.SYS_OPENAT, tape.Imm(unix.AT_FDCWD), link.Arg(), tape.Imm(unix.O_RDONLY|unix.O_CLOEXEC))
		t.Call(unix.SYS_SETNS, fd.Arg(), tape.Imm(unix.CLONE_NEWUSER))
		t.Call(unix.SYS_CLOSE, fd.Arg())
		runs, who = append(runs, tape.Run{TID: p.PID, Tape: t}), append(who, p.ID)
	}
	return r.runAll(ctx, "enter its user namespace", runs, who)
}

// endKeepers ends the keepers: everything is in its place.
func (r *flow) endKeepers(ctx context.Context) error {
	if len(r.keepers) == 0 {
		return nil
	}
	return r.tracer.With(ctx, func(o *task.Ops) error {
		for i := range r.keepers {
			pid := task.HostPID(r.keepers[i].PID)
			r.engine.Remove(pid)
			if err := o.Kill(pid, []task.HostPID{pid}); err != nil {
				return err
			}
			r.forget(pid)
		}
		return nil
	})
}
