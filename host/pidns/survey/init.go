package survey

import (
	"fmt"
	"os"
	"strconv"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// InitName is what an init of Firn's is called in /proc.
const InitName = "firn-init"

// initProgram is what its program is called: the seed of a restore.
const initProgram = "/memfd:" + task.SeedName + " (deleted)"

// Init is an init of Firn's.
type Init struct {
	PID task.HostPID
	// Root is the root of the tree, with which the namespace ends.
	Root task.HostPID
}

// AsInit tells whether a process is an init of Firn's, which waits for the root
// of a restored tree by the only descriptor that it has. It returns nil if it is
// not.
func AsInit(pid task.HostPID) (*Init, error) {
	st, err := procfs.Stat(int(pid))
	if err != nil {
		return nil, err
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || st.Comm != InitName || exe != initProgram {
		return nil, nil //nolint:nilerr // a kernel thread, or a zombie
	}
	info, err := procfs.ReadFDInfo(int(pid), 0)
	if err != nil {
		return nil, err
	}
	if info.Pidfd == nil || info.Pidfd.PID <= 0 {
		return nil, fmt.Errorf("the root for which init %d waits has ended: %w", pid, sdk.ErrTaskGone)
	}
	return &Init{PID: pid, Root: task.HostPID(info.Pidfd.PID)}, nil
}

// InitOf finds the init of Firn's that waits for a process; nil if there is none.
func InitOf(root task.HostPID) (*Init, error) {
	own, err := inode("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	ns, err := inode(fmt.Sprintf("/proc/%d/ns/pid", root))
	if err != nil || ns == own {
		return nil, nil //nolint:nilerr // without a right to look, as without a process, others will say so
	}
	st, err := procfs.Status(int(root))
	if err != nil || st.OwnTgid() == int(pidns.InitID) {
		return nil, err
	}
	pid, err := findInit(ns)
	if err != nil || pid == 0 {
		return nil, err
	}
	init, err := AsInit(pid)
	if err != nil || init == nil || init.Root != root {
		return nil, err
	}
	return init, nil
}

// processes calls f for the processes of the machine, until it returns false.
func processes(f func(pid task.HostPID) bool) error {
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && !f(task.HostPID(pid)) {
			break
		}
	}
	return nil
}

// findInit finds the first process of a PID namespace; 0 if there is none that
// can be seen.
func findInit(ns uint64) (found task.HostPID, err error) {
	err = processes(func(pid task.HostPID) bool {
		if ino, err := inode(fmt.Sprintf("/proc/%d/ns/pid", pid)); err == nil && ino == ns {
			if st, err := procfs.Status(int(pid)); err == nil && st.OwnPid() == int(pidns.InitID) {
				found = pid
			}
		}
		return found == 0
	})
	return found, err
}

// strangers finds processes that are in a namespace of the tree without being
// in the tree (setns(2)): they would end with it.
func (v *View) strangers(procs []*task.Process) error {
	known := map[task.HostPID]bool{}
	for _, p := range procs {
		known[p.PID] = true
	}
	if v.firn != nil {
		known[v.firn.PID] = true
	}
	ours := map[uint64]int{}
	for i, ino := range v.inodes {
		if i > 0 || v.Map.Own {
			ours[ino] = i
		}
	}
	return processes(func(pid task.HostPID) bool {
		if known[pid] {
			return true
		}
		ino, err := inode(fmt.Sprintf("/proc/%d/ns/pid", pid))
		ns, found := ours[ino]
		if err != nil || !found {
			return true
		}
		st, err := procfs.Status(int(pid))
		if err != nil || v.isBelow(st.PPid, known) {
			return true // it has ended, or was born just now
		}
		v.Findings = append(v.Findings, sdk.Finding{
			Level: sdk.LevelBlock, Task: v.Map.Init(ns), Subject: "pid namespace",
			Text: fmt.Sprintf("process %d (%s) has entered it, and is not in the tree", pid, st.Name),
			Help: "end that one first",
		})
		return true
	})
}

// isBelow tells whether a process has a parent in the tree, or had one when the
// tree was listed.
func (v *View) isBelow(parent int, known map[task.HostPID]bool) bool {
	for parent > 1 {
		if known[task.HostPID(parent)] {
			return true
		}
		st, err := procfs.Stat(parent)
		if err != nil {
			return false
		}
		parent = st.PPID
	}
	return false
}
