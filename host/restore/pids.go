package restore

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/host/skeleton"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// numbers tells which process, thread, group and session numbers are taken.
type numbers struct {
	// holder maps a number to what holds it: "process 4711 (redis-server)".
	holder map[sdk.TaskID]string
	// fresh is set for a new PID namespace, in which neither the session nor
	// the group of the restorer has a number.
	fresh bool
}

// numbers tells which numbers are taken where the tree will live.
func (r *flow) numbers() (*numbers, error) {
	if !r.pidns.IsOwn() {
		return readNumbers()
	}
	n := &numbers{holder: map[sdk.TaskID]string{}, fresh: true}
	if r.pidns.FirnInit() {
		n.holder[pidns.InitID] = "the init of a new PID namespace"
	}
	return n, nil
}

// readNumbers lists every task of the machine. The kernel refuses to reuse a
// number while it is anyone's thread, process, group or session id.
func readNumbers() (*numbers, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	n := &numbers{holder: map[sdk.TaskID]string{}}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if err := n.add(pid); err != nil && !gone(err) {
			return nil, fmt.Errorf("read task %d: %w", pid, err)
		}
	}
	return n, nil
}

func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }

func (n *numbers) add(pid int) error {
	st, err := procfs.Stat(pid)
	if err != nil {
		return err
	}
	who := fmt.Sprintf("%d (%s)", pid, st.Comm)
	tids, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, t := range tids {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			n.holder[sdk.TaskID(tid)] = "thread of process " + who
		}
	}
	n.hold(sdk.TaskID(st.PGRP), "process group of process "+who)
	n.hold(sdk.TaskID(st.Session), "session of process "+who)
	n.holder[sdk.TaskID(pid)] = "process " + who
	return nil
}

func (n *numbers) hold(id sdk.TaskID, what string) {
	if _, ok := n.holder[id]; !ok && id != 0 {
		n.holder[id] = what
	}
}

func (n *numbers) used(id sdk.TaskID) bool { _, ok := n.holder[id]; return ok }

// conflicts lists every process and thread of the tree whose number is taken.
func (n *numbers) conflicts(tree *sdk.Tree) []failure.Line {
	var out []failure.Line
	help := "end that one first, or pass --new-pid-namespace"
	if n.fresh {
		help = "restore without --new-pid-namespace"
	}
	report := func(id sdk.TaskID, what string) {
		if h, ok := n.holder[id]; ok {
			out = append(out, failure.Line{Finding: sdk.Finding{
				Level: sdk.LevelBlock, Task: id, Subject: what,
				Text: "its number is in use by " + h, Help: help,
			}})
		}
	}
	for i := range tree.Processes {
		p := &tree.Processes[i]
		report(p.ID, "process")
		for _, t := range p.Threads {
			if t.ID != p.ID {
				report(t.ID, "thread")
			}
		}
	}
	return out
}

// outside describes the restorer to the skeleton.
func (n *numbers) outside() (skeleton.Outside, error) {
	if n.fresh {
		return skeleton.Outside{Used: n.used}, nil
	}
	sid, err := unix.Getsid(0)
	if err != nil {
		return skeleton.Outside{}, fmt.Errorf("read own session: %w", err)
	}
	return skeleton.Outside{Session: sdk.TaskID(sid), Group: sdk.TaskID(unix.Getpgrp()), Used: n.used}, nil
}

// pidMax is the highest number that this machine gives out.
func pidMax() (sdk.TaskID, error) {
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return 0, err
	}
	limit, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	return sdk.TaskID(limit), err
}
