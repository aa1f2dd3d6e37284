package task

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// State is what a process does.
type State uint8

// States of a process.
const (
	Running State = iota
	Stopped       // by a signal (job control)
	Zombie
)

// isGone tells whether an error of /proc means that the task ended.
func isGone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, sdk.ErrTaskGone)
}

// threadsOf lists the threads of a process, the main thread first.
func threadsOf(pid HostPID) ([]HostPID, error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	tids := make([]HostPID, 0, len(names))
	for _, n := range names {
		tid, err := strconv.Atoi(n)
		if err != nil {
			return nil, fmt.Errorf("thread %q of process %d: %w", n, pid, err)
		}
		tids = append(tids, HostPID(tid))
	}
	return tids, nil
}

// childrenOf lists the children of all threads of a process
// (/proc/PID/task/TID/children, CONFIG_PROC_CHILDREN). The list is exact only
// while the process is frozen.
func childrenOf(pid HostPID, tids []HostPID) ([]HostPID, error) {
	var out []HostPID
	for _, tid := range tids {
		kids, err := procfs.Children(int(pid), int(tid))
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		for _, child := range kids {
			out = append(out, HostPID(child))
		}
	}
	return out, nil
}

// Process is one thread group of a tree.
type Process struct {
	PID, Parent, PGID, SID HostPID
	// TTY is the device number of the controlling terminal, 0 if none.
	TTY        uint32
	TTYGroup   int
	Comm       string
	StartTime  uint64 // clock ticks after boot
	State      State
	StopSignal unix.Signal // of a stopped process
	// ExitStatus is that of a zombie, as wait4(2) gives it, or of a main thread
	// that has exited.
	ExitStatus int
	ExitSignal int   // what the parent gets at the end
	Resident   int64 // bytes of memory, when it was read
	// MainExited is set if the main thread has ended by exit(2) while others
	// run: it is a zombie then, without memory and files.
	MainExited bool
	// Threads has the main thread first, unless it has exited; empty for
	// zombies.
	Threads []*Thread
}

// Live is a thread by which /proc shows what the process has: the main thread
// or, if that has exited, another one.
func (p *Process) Live() HostPID {
	if len(p.Threads) == 0 {
		return p.PID
	}
	return p.Threads[0].TID
}

// readProcess reads what /proc knows of a process.
func readProcess(pid HostPID) (*Process, error) {
	st, err := procfs.Stat(int(pid))
	if err != nil {
		return nil, err
	}
	p := &Process{
		PID: pid, Parent: HostPID(st.PPID), PGID: HostPID(st.PGRP), SID: HostPID(st.Session),
		TTY: st.TTY, TTYGroup: st.TPGID, Comm: st.Comm, StartTime: st.StartTime, ExitSignal: st.ExitSignal,
		Resident: st.RSS * pageSize,
	}
	if st.State == 'Z' || st.State == 'X' {
		p.ExitStatus = st.ExitCode
		p.State = Zombie
	}
	return p, nil
}

// Roots are where a tree begins.
type Roots struct {
	Root HostPID
	// Init, if not 0, is a process whose children belong to the tree as well,
	// while itself does not: the tree has left them to it.
	Init HostPID
}

// list are the root and the children of Init.
func (r Roots) list() ([]HostPID, error) {
	out := []HostPID{r.Root}
	if r.Init == 0 {
		return out, nil
	}
	tids, err := threadsOf(r.Init)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", r.Init, err)
	}
	kids, err := childrenOf(r.Init, tids)
	return append(out, kids...), err
}

// Walk lists a tree without stopping anything: the root first, parents before
// their children, zombies included. What changes meanwhile may be missed.
func Walk(roots Roots) ([]*Process, error) {
	first, err := roots.list()
	if err != nil {
		return nil, err
	}
	return walk(roots.Root, first, membersOf)
}

// members are the threads of a process and its children.
type members struct{ tids, kids []HostPID }

func membersOf(pid HostPID) (m members, err error) {
	if m.tids, err = threadsOf(pid); err != nil {
		return m, err
	}
	m.kids, err = childrenOf(pid, m.tids)
	return m, err
}

// walk is Walk with a source for what belongs to a process.
func walk(root HostPID, first []HostPID, of func(HostPID) (members, error)) ([]*Process, error) {
	var out []*Process
	seen := map[HostPID]bool{}
	for queue := first; len(queue) > 0; queue = queue[1:] {
		pid := queue[0]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		p, kids, err := walkOne(pid, of)
		if isGone(err) && pid != root {
			continue
		}
		if isGone(err) {
			return nil, fmt.Errorf("process %d: %w", pid, sdk.ErrTaskGone)
		}
		if err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
		out, queue = append(out, p), append(queue, kids...)
	}
	return out, nil
}

func walkOne(pid HostPID, of func(HostPID) (members, error)) (*Process, []HostPID, error) {
	p, err := readProcess(pid)
	if err != nil {
		return nil, nil, err
	}
	m, err := of(pid)
	if err != nil {
		return nil, nil, err
	}
	tids := m.tids
	if p.State == Zombie && len(tids) > 1 {
		if tids, err = p.withoutMain(tids); err != nil {
			return nil, nil, err
		}
	}
	if p.State == Zombie {
		return p, nil, nil
	}
	for _, tid := range tids {
		p.Threads = append(p.Threads, &Thread{TID: tid})
	}
	return p, m.kids, nil
}

// withoutMain takes the main thread, which has exited, out of the threads of a
// process that lives on.
func (p *Process) withoutMain(tids []HostPID) ([]HostPID, error) {
	// The status of the process would be that of its last stop, if any.
	st, err := procfs.ThreadStat(int(p.PID), int(p.PID))
	if err != nil {
		return nil, err
	}
	p.State, p.MainExited, p.ExitStatus = Running, true, st.ExitCode
	return slices.DeleteFunc(tids, func(tid HostPID) bool { return tid == p.PID }), nil
}

// IsProcess tells whether pid is a process and, if it is a thread of one,
// which.
func IsProcess(pid HostPID) (ok bool, process HostPID, err error) {
	st, err := procfs.Status(int(pid))
	if err != nil {
		return false, 0, err
	}
	return HostPID(st.Tgid) == pid, HostPID(st.Tgid), nil
}

// ParentOf returns the parent of a process.
func ParentOf(pid HostPID) (HostPID, error) {
	st, err := procfs.Stat(int(pid))
	if err != nil {
		return 0, fmt.Errorf("parent of process %d: %w", pid, err)
	}
	return HostPID(st.PPID), nil
}
