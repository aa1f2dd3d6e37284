// Package survey finds out in which PID and mount namespaces the processes of a
// tree are, and by which numbers they are known in them. It reads /proc and
// changes nothing.
package survey

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// View is the PID namespaces of a tree as the host sees them, and the tree's
// numbers by the host's.
type View struct {
	// Map is nil if all of the tree is in the host's PID namespace.
	Map *pidns.Map
	// Findings say what of the namespaces cannot be carried. They are about
	// the processes by their TaskIDs.
	Findings []sdk.Finding

	inodes  []uint64 // of Map.Namespaces
	level   int      // of the root's namespace below the host's
	own     uint64   // the inode of the host's
	mounts  *mountView
	ids     map[task.HostPID]numbers
	pids    map[sdk.TaskID]task.HostPID
	mnt     map[task.HostPID]uint64
	firn    *Init
	dropped map[task.HostPID]bool
	root    task.HostPID
}

// numbers are those of one task, from the root's namespace to its own.
type numbers struct{ pid, pgid, sid []int }

// links are what a process shows of its namespaces.
type links struct{ pid, children, mnt uint64 }

// Read finds out in which PID namespaces the processes of a tree are. The root
// comes first. A process that ended meanwhile is an error only if the tree is
// frozen; otherwise [View.Gone] tells.
func Read(procs []*task.Process, frozen bool) (*View, error) {
	v := &View{ids: map[task.HostPID]numbers{}, pids: map[sdk.TaskID]task.HostPID{}, mnt: map[task.HostPID]uint64{}, dropped: map[task.HostPID]bool{}, root: procs[0].PID}
	var err error
	if v.own, err = inode("/proc/self/ns/pid"); err != nil {
		return nil, err
	}
	all := make([]links, len(procs))
	plain := true
	for i, p := range procs {
		if all[i], err = readLinks(p); err != nil {
			if errors.Is(err, os.ErrPermission) && ended(p) {
				err = fmt.Errorf("%w: %w", sdk.ErrTaskGone, err)
			}
			if !gone(err) || frozen || i == 0 {
				if errors.Is(err, os.ErrPermission) && !gone(err) {
					err = fmt.Errorf("%w: CAP_SYS_PTRACE needed: %w", err, sdk.ErrNotPermitted)
				}
				return nil, fmt.Errorf("PID namespace of process %d: %w", p.PID, err)
			}
			v.dropped[p.PID] = true
			continue
		}
		v.mnt[p.PID] = all[i].mnt
		plain = plain && all[i].pid == v.own && (all[i].children == v.own || p.State == task.Zombie)
	}
	if plain {
		return v, nil
	}
	return v, v.read(procs, all, frozen)
}

func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, sdk.ErrTaskGone)
}

// ended tells whether a process is no more, or is a zombie: where a task has ended
// between the lookup of a link and its use, the kernel says EACCES
// (proc_ns_get_link in fs/proc/namespaces.c).
func ended(p *task.Process) bool {
	st, err := procfs.Stat(int(p.Live()))
	return err != nil || st.State == 'Z' || st.State == 'X'
}

// inode is the number of the namespace behind a link; every task has one, so
// that it differs from those of all others while the namespace exists.
func inode(link string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(link, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", link, err)
	}
	return st.Ino, nil
}

// readLinks reads the namespaces of a process. A zombie has none but its PID
// namespace. The one for children is 0 before its first process exists.
func readLinks(p *task.Process) (l links, err error) {
	dir := fmt.Sprintf("/proc/%d/ns/", p.Live())
	if l.pid, err = inode(dir + "pid"); err != nil || p.State == task.Zombie {
		return l, err
	}
	if l.children, err = inode(dir + "pid_for_children"); err != nil && !errors.Is(err, unix.ENOENT) {
		return l, err
	}
	l.mnt, err = inode(dir + "mnt")
	return l, err
}

// read reads the numbers of all tasks of a tree that has namespaces of its own.
func (v *View) read(procs []*task.Process, all []links, frozen bool) error {
	v.Map = &pidns.Map{In: map[sdk.TaskID]int{}, Children: map[sdk.TaskID]int{}, Inner: map[sdk.TaskID][]uint32{}}
	for i, p := range procs {
		if v.dropped[p.PID] {
			continue
		}
		if err := v.readNumbers(p); err != nil {
			if !gone(err) || frozen || i == 0 {
				return fmt.Errorf("numbers of process %d: %w", p.PID, err)
			}
			v.dropped[p.PID] = true
		}
	}
	if err := v.first(procs[0], all[0]); err != nil {
		return err
	}
	for pid := range v.ids {
		v.pids[v.ID(pid)] = pid
	}
	for i, p := range procs {
		if v.dropped[p.PID] {
			continue
		}
		if err := v.place(p, all[i]); err != nil {
			if !gone(err) || frozen || i == 0 {
				return fmt.Errorf("PID namespaces of process %d: %w", p.PID, err)
			}
			v.dropped[p.PID] = true
		}
	}
	for i, p := range procs {
		if !v.dropped[p.PID] && p.State != task.Zombie {
			v.children(p, all[i])
		}
	}
	v.inits()
	return v.strangers(procs)
}

// readNumbers reads the numbers of a process and its threads.
func (v *View) readNumbers(p *task.Process) error {
	tids := []task.HostPID{p.PID}
	for _, th := range p.Threads {
		if th.TID != p.PID {
			tids = append(tids, th.TID)
		}
	}
	for _, tid := range tids {
		st, err := procfs.Status(int(tid))
		if err != nil {
			if gone(err) && tid != p.PID {
				continue // a thread that has ended
			}
			return err
		}
		if len(st.NSpid) == 0 || len(st.NSpgid) != len(st.NSpid) || len(st.NSsid) != len(st.NSpid) {
			return fmt.Errorf("task %d: the kernel does not show its numbers (NSpid, since 4.1): %w", tid, sdk.ErrKernel)
		}
		v.ids[tid] = numbers{st.NSpid, st.NSpgid, st.NSsid}
	}
	return nil
}

// first makes the namespace of the root the first one.
func (v *View) first(root *task.Process, l links) error {
	n := v.ids[root.PID]
	v.level = len(n.pid) - 1
	v.inodes = []uint64{l.pid}
	first := pidns.Namespace{}
	v.Map.Own = l.pid != v.own
	if v.Map.Own && n.pid[v.level] == int(pidns.InitID) {
		first.Init = pidns.InitID
	}
	v.Map.Namespaces = []pidns.Namespace{first}
	if !v.Map.Own {
		return nil
	}
	if first.Init == 0 {
		if err := v.outerInit(root, l.pid); err != nil {
			return err
		}
	}
	return v.readMounts(root, l.mnt)
}

// outerInit looks at a root that is not the first process of its namespace. Only
// an init of Firn's, which does nothing but wait for it, can be replaced.
func (v *View) outerInit(root *task.Process, ns uint64) error {
	block := func(text, help string) {
		v.Findings = append(v.Findings, sdk.Finding{
			Level: sdk.LevelBlock, Task: v.ID(root.PID), Subject: "pid namespace", Text: text, Help: help,
		})
	}
	init, err := findInit(ns)
	switch {
	case err != nil:
		return err
	case init == 0:
		block("the first process of its PID namespace cannot be found", "")
		return nil
	}
	v.firn, err = AsInit(init)
	switch {
	case gone(err):
		return fmt.Errorf("process %d: %w", init, sdk.ErrTaskGone)
	case err != nil:
		return err
	case v.firn == nil:
		block(fmt.Sprintf("it is not the first process of its PID namespace, which is process %d", init),
			fmt.Sprintf("checkpoint process %d, and with it all of its namespace", init))
	case v.firn.Root != root.PID:
		block(fmt.Sprintf("it is not the root of the tree that was restored into its PID namespace, which is process %d", v.firn.Root),
			fmt.Sprintf("checkpoint process %d", v.firn.Root))
		v.firn = nil
	}
	return nil
}

// place finds the namespace of a process, and notes its numbers below the first.
func (v *View) place(p *task.Process, l links) error {
	ns := slices.Index(v.inodes, l.pid)
	if ns < 0 {
		var err error
		if ns, err = v.add(fmt.Sprintf("/proc/%d/ns/pid", p.PID), l.pid); err != nil {
			return err
		}
	}
	id := v.ID(p.PID)
	if ns > 0 {
		v.Map.In[id] = ns
	}
	if last := v.ids[p.PID].pid; len(last)-1 > v.level && last[len(last)-1] == int(pidns.InitID) {
		v.Map.Namespaces[ns].Init = id
	}
	n := v.ids[p.PID]
	v.inner(v.tree(n.pgid), n.pgid)
	v.inner(v.tree(n.sid), n.sid)
	v.inner(id, n.pid)
	for _, th := range p.Threads {
		if n, ok := v.ids[th.TID]; ok {
			v.inner(v.tree(n.pid), n.pid)
		}
	}
	return nil
}

// inner notes the numbers below the first namespace. Those of a group or session
// show as far as they reach: 0 is what cannot be seen from inside.
func (v *View) inner(id sdk.TaskID, all []int) {
	var out []uint32
	for _, n := range all[min(v.level+1, len(all)):] {
		if n == 0 {
			break
		}
		out = append(out, uint32(n))
	}
	if id != 0 && len(out) > len(v.Map.Inner[id]) {
		v.Map.Inner[id] = out
	}
}

// tree is the number in the root's namespace; 0 for what is not visible there.
func (v *View) tree(all []int) sdk.TaskID {
	if v.level >= len(all) {
		return 0
	}
	return sdk.TaskID(all[v.level])
}

// add notes a namespace, and those around it that are not known yet.
func (v *View) add(link string, ino uint64) (int, error) {
	f, err := os.Open(link)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	up, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_PARENT)
	if err != nil {
		return 0, fmt.Errorf("namespace around %s: %w", link, err)
	}
	defer unix.Close(up)
	var st unix.Stat_t
	if err := unix.Fstat(up, &st); err != nil {
		return 0, err
	}
	parent := slices.Index(v.inodes, st.Ino)
	if parent < 0 {
		if parent, err = v.add(fmt.Sprintf("/proc/self/fd/%d", up), st.Ino); err != nil {
			return 0, err
		}
	}
	v.inodes = append(v.inodes, ino)
	v.Map.Namespaces = append(v.Map.Namespaces, pidns.Namespace{Parent: parent})
	return len(v.inodes) - 1, nil
}

// children notes where the children of a process are born.
func (v *View) children(p *task.Process, l links) {
	id := v.ID(p.PID)
	switch {
	case l.children == l.pid:
	case l.children == 0:
		v.Map.Children[id] = pidns.NotYet
	default:
		ns := slices.Index(v.inodes, l.children)
		if ns < 0 {
			v.Findings = append(v.Findings, sdk.Finding{
				Level: sdk.LevelBlock, Task: id, Subject: "pid_for_children namespace",
				Text: "its children are born in a PID namespace in which no process of the tree is",
			})
			return
		}
		v.Map.Children[id] = ns
	}
}

// inits makes sure that the tree has the first process of every namespace.
func (v *View) inits() {
	for id, ns := range v.Map.In {
		if v.Map.Namespaces[ns].Init == 0 {
			v.Findings = append(v.Findings, sdk.Finding{
				Level: sdk.LevelBlock, Task: id, Subject: "pid namespace",
				Text: "the first process of its PID namespace is not in the tree",
			})
		}
	}
}

// ID is the number that the tree uses for a process or thread, or 0.
func (v *View) ID(pid task.HostPID) sdk.TaskID {
	if v.Map == nil {
		return sdk.TaskID(pid)
	}
	return v.tree(v.ids[pid].pid)
}

// PID is the host's number of a process or thread of the tree; 0 if there is none.
func (v *View) PID(id sdk.TaskID) task.HostPID {
	if v.Map == nil {
		return task.HostPID(id)
	}
	return v.pids[id]
}

// Group and Session are those of a process, as numbers that the tree uses.
func (v *View) Group(p *task.Process) sdk.TaskID {
	if v.Map == nil {
		return sdk.TaskID(p.PGID)
	}
	return v.tree(v.ids[p.PID].pgid)
}

// Session is the session of a process.
func (v *View) Session(p *task.Process) sdk.TaskID {
	if v.Map == nil {
		return sdk.TaskID(p.SID)
	}
	return v.tree(v.ids[p.PID].sid)
}

// Parent is the parent of a process.
func (v *View) Parent(p *task.Process) sdk.TaskID {
	if v.firn != nil && p.Parent == v.firn.PID {
		return pidns.InitID
	}
	if id := v.ID(p.Parent); id != 0 {
		return id
	}
	return v.ID(v.root) // its parent has ended meanwhile
}

// Gone tells whether a process ended while it was looked at.
func (v *View) Gone(p *task.Process) bool { return v.dropped[p.PID] }
