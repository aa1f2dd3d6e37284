package task

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/procfs"
)

// semaphoreUsers are the processes that were the last to change some System V semaphore
// of the plugin's own IPC namespace.
func semaphoreUsers() (map[int]bool, error) {
	sets, err := procfs.SysVIPC(procfs.Semaphores)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	users := map[int]bool{}
	for _, s := range sets {
		if s.Numbers["otime"] == 0 {
			continue // semop(2) was never called
		}
		for i := range int(s.Numbers["nsems"]) {
			pid, err := kern.SemaphorePID(s.ID, i)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIDRM) || errors.Is(err, unix.EACCES) {
				break // removed since, or none that the plugin may look at
			}
			if err != nil {
				return nil, fmt.Errorf("last process of semaphore %d of %d: %w", i, s.ID, err)
			}
			users[pid] = true
		}
	}
	return users, nil
}

// adjustments reports processes that use semaphores of the machine and may have
// to undo that when they end: the kernel does not tell what. Semaphores of other
// IPC namespaces are the business of who carries these.
func adjustments(exams []*examination) error {
	users, err := semaphoreUsers()
	if err != nil || len(users) == 0 {
		return err
	}
	for _, x := range exams {
		if !users[x.proc.TGID()] {
			continue
		}
		if err := x.ended(x.adjustments()); err != nil {
			return err
		}
	}
	return nil
}

func (x *examination) adjustments() error {
	own, err := namespace.Inode(selfPID, "ipc")
	if err != nil {
		return err
	}
	ns, err := namespace.Inode(x.proc.PID, "ipc")
	if err != nil || ns != own {
		return err
	}
	may, err := kern.MayUndo(x.proc.TIDs()...)
	if may {
		x.block(0, "System V semaphores", "were changed by the task, and may have to be changed back when it ends (SEM_UNDO), which the kernel does not tell", "")
	}
	return err
}
