package task

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/semadj"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/procfs"
)

// machineSemaphores are those of the plugin's own IPC namespace on which semop(2)
// was called, and the processes that were the last to change one.
func machineSemaphores() (list []semadj.Semaphore, users map[int]bool, err error) {
	sets, err := procfs.SysVIPC(procfs.Semaphores)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	users = map[int]bool{}
	for _, s := range sets {
		if s.Numbers["otime"] == 0 {
			continue
		}
		for i := range int(s.Numbers["nsems"]) {
			pid, err := kern.SemaphorePID(s.ID, i)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIDRM) || errors.Is(err, unix.EACCES) {
				break // removed since, or none that the plugin may look at
			}
			if err != nil {
				return nil, nil, fmt.Errorf("last process of semaphore %d of %d: %w", i, s.ID, err)
			}
			users[pid] = true
			list = append(list, semadj.Semaphore{Set: s.ID, Number: i})
		}
	}
	return list, users, nil
}

// adjustments reports processes that have changed semaphores of the machine for
// as long as they live (SEM_UNDO): the end of the tree takes that back, and
// others may have them when it is restored. Semaphores of other IPC namespaces
// are the business of who carries these. Only frozen tasks can be asked; before,
// a process that was the last to change one is worth a note.
func adjustments(ctx context.Context, host sdk.Host, exams []*examination) error {
	list, users, err := machineSemaphores()
	if err != nil || len(list) == 0 {
		return err
	}
	for _, x := range exams {
		if len(x.proc.Threads) == 0 || !x.frozen && (x.preview || !users[x.proc.TGID()]) {
			continue
		}
		if err := x.ended(x.adjustments(ctx, host, list, users)); err != nil {
			return err
		}
	}
	return nil
}

func (x *examination) adjustments(ctx context.Context, host sdk.Host, list []semadj.Semaphore, users map[int]bool) error {
	own, err := namespace.Inode(selfPID, "ipc")
	if err != nil {
		return err
	}
	ns, err := namespace.Inode(x.proc.PID, "ipc")
	if err != nil || ns != own {
		return err
	}
	may, err := kern.MayUndo(x.proc.TIDs()...)
	if err != nil || !may {
		return err
	}
	if !x.frozen {
		x.note(0, semaphoreSubject, "were changed by the task; if it has to change them back when it ends (SEM_UNDO), a checkpoint is refused")
		return nil
	}
	apart, err := semadj.Apart(x.proc.TIDs())
	if err != nil {
		return err
	}
	for _, i := range append(apart, 0) {
		if err := x.adjustmentsOf(ctx, host, i, list, users); err != nil {
			return err
		}
	}
	return nil
}

// semaphoreSubject is what the findings are about.
const semaphoreSubject = "System V semaphores"

// looks is how often a semaphore that others change is looked at.
const looks = 5

func (x *examination) adjustmentsOf(ctx context.Context, host sdk.Host, i int, list []semadj.Semaphore, users map[int]bool) error {
	tid := x.proc.Threads[i].TID
	for _, s := range list {
		var found []semadj.Adjustment
		err := semadj.ErrBusy
		for look := 0; look < looks && errors.Is(err, semadj.ErrBusy); look++ {
			if s.Value, err = kern.SemaphoreValue(s.Set, s.Number); err == nil {
				found, err = semadj.Read(ctx, host, []int{tid}, []semadj.Semaphore{s})
			}
		}
		switch {
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIDRM):
			continue // removed since
		case errors.Is(err, semadj.ErrUnreadable) && !users[x.proc.TGID()]:
			continue // it may not use it, and has not been the last who did
		case errors.Is(err, semadj.ErrUnreadable) || errors.Is(err, semadj.ErrBusy):
			x.block(i, semaphoreSubject, fmt.Sprintf("semaphore %d of %d: %v", s.Number, s.Set, err), "try again")
		case err != nil:
			return err
		case len(found) > 0:
			x.block(i, semaphoreSubject, fmt.Sprintf("semaphore %d of %d changes by %d when the task ends (SEM_UNDO)", s.Number, s.Set, found[0].By),
				"run the program in an IPC namespace (unshare --ipc)")
		}
	}
	return nil
}
