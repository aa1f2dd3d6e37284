// Package userns finds out in which user namespaces the processes of a tree
// live, and which own other namespaces of theirs (user_namespaces(7)). It reads
// /proc and changes nothing.
package userns

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/procfs"
)

// View is the user namespaces of a tree as the host sees them.
type View struct {
	// Namespaces are what [sdk.Tree] has of them.
	Namespaces []sdk.UserNamespace

	inodes []uint64 // of Namespaces
	// members is a process that lives in each, 0 if none is known.
	members []task.HostPID
	of      map[task.HostPID]int
	own     uint64
}

// nsName is the name of user namespaces in /proc/PID/ns.
const nsName = "user"

// outside is the place of a namespace that is not the host's nor inside it.
const outside = -1

// Read finds out in which user namespaces processes live. What ended meanwhile
// is in none; if the tree is frozen, that is an error.
func Read(procs []*task.Process, frozen bool) (*View, error) {
	v := &View{of: map[task.HostPID]int{}}
	var err error
	if v.own, err = namespace.Inode(os.Getpid(), nsName); err != nil {
		return nil, err
	}
	for _, p := range procs {
		if p.State == task.Zombie {
			continue // its namespace ends with it
		}
		err := v.addProcess(p)
		if gone(err) && !frozen {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("user namespace of process %d: %w", p.PID, err)
		}
	}
	return v, v.readMaps()
}

// gone tells whether a process has ended. Where it ends between the lookup of a
// link and its use, the kernel says EACCES.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrPermission)
}

func (v *View) addProcess(p *task.Process) error {
	ino, err := namespace.Inode(int(p.Live()), nsName)
	if err != nil || ino == v.own {
		return err
	}
	f, err := namespace.Open(int(p.Live()), nsName)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := v.place(int(f.Fd()))
	if err != nil || n == outside {
		return err
	}
	v.of[p.PID] = n
	v.members[n-1] = p.Live()
	return nil
}

// place is the place of a user namespace, 0 for the host's own. It notes one that
// is new, after those around it.
func (v *View) place(fd int) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("stat user namespace: %w", err)
	}
	if st.Ino == v.own {
		return 0, nil
	}
	if i := slices.Index(v.inodes, st.Ino); i >= 0 {
		return i + 1, nil
	}
	up, err := unix.IoctlRetInt(fd, unix.NS_GET_PARENT)
	if errors.Is(err, unix.EPERM) {
		return outside, nil
	}
	if err != nil {
		return 0, fmt.Errorf("user namespace around another: %w", err)
	}
	defer unix.Close(up)
	parent, err := v.place(up)
	if err != nil || parent == outside {
		return parent, err
	}
	owner, err := unix.IoctlGetUint32(fd, unix.NS_GET_OWNER_UID)
	if err != nil {
		return 0, fmt.Errorf("owner of user namespace: %w", err)
	}
	v.inodes, v.members = append(v.inodes, st.Ino), append(v.members, 0)
	v.Namespaces = append(v.Namespaces, sdk.UserNamespace{Parent: parent, Owner: owner})
	return len(v.inodes), nil
}

// readMaps reads which users and groups the namespaces have, which /proc shows of
// a process that lives there.
func (v *View) readMaps() (err error) {
	for i, pid := range v.members {
		if pid == 0 {
			continue
		}
		ns := &v.Namespaces[i]
		if ns.UIDs, err = procfs.IDMap(int(pid), "uid_map"); err != nil {
			return err
		}
		if ns.GIDs, err = procfs.IDMap(int(pid), "gid_map"); err != nil {
			return err
		}
		if ns.SetgroupsDenied, err = procfs.SetgroupsDenied(int(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Of is the user namespace of a process, as [sdk.Process.UserNamespace].
func (v *View) Of(pid task.HostPID) int { return v.of[pid] }

// Carries tells whether the host carries a user namespace.
func (v *View) Carries(ino uint64) bool { return slices.Contains(v.inodes, ino) }

// Owner is the user namespace that owns a namespace of a task, by its name in
// /proc/PID/ns; ok is false if it is not the host's own nor inside it.
func (v *View) Owner(pid int, name string) (n int, ok bool, err error) {
	f, err := namespace.Open(pid, name)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("owner of %s namespace of task %d: %w", name, pid, err)
	}
	defer unix.Close(owner)
	n, err = v.place(owner)
	return n, n != outside && err == nil, err
}

// WhyNot says why a namespace cannot be carried, by its place; "" if it can.
func (v *View) WhyNot(n int) string {
	ns := &v.Namespaces[n-1]
	const nobody = ^uint32(0)
	if v.members[n-1] == 0 {
		return "no process of the tree lives in it, so that its users cannot be read, but it is around others of the tree or owns them"
	}
	for _, m := range []sdk.IDMap{ns.UIDs, ns.GIDs} {
		for _, r := range m {
			if r.Outside == nobody {
				return "has users or groups for which firn's user namespace has no number"
			}
		}
	}
	return ""
}
