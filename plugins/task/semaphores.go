package task

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

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

// semaphoreSubject is what the findings are about.
const semaphoreSubject = "System V semaphores"

// suspect is a thread that may have adjustments of semaphores of the machine.
type suspect struct {
	*examination
	thread int
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
	suspects := map[int]suspect{}
	for _, x := range exams {
		if len(x.proc.Threads) == 0 || !x.frozen && (x.preview || !users[x.proc.TGID()]) {
			continue
		}
		if err := x.ended(x.mayAdjust(suspects)); err != nil {
			return err
		}
	}
	if len(suspects) == 0 {
		return nil
	}
	found, err := readAdjustments(ctx, host, slices.Collect(maps.Keys(suspects)), list)
	for _, a := range found {
		suspects[a.TID].adjusts(a, users)
	}
	return err
}

// mayAdjust finds the threads that are to be asked; while the tree runs, it only
// notes that there are some.
func (x *examination) mayAdjust(suspects map[int]suspect) error {
	own, err := namespace.Inode(selfPID, "ipc")
	if err != nil {
		return err
	}
	ns, err := namespace.Inode(x.proc.PID, "ipc")
	if err != nil || ns != own {
		return err
	}
	tids := x.proc.TIDs()
	may, err := kern.MayUndo(tids...)
	if err != nil || !may {
		return err
	}
	if !x.frozen {
		x.note(0, semaphoreSubject, "were changed by the task; if it has to change them back when it ends (SEM_UNDO), a checkpoint is refused")
		return nil
	}
	apart, err := semadj.Apart(tids)
	if err != nil {
		return err
	}
	for _, i := range append(apart, 0) {
		suspects[tids[i]] = suspect{x, i}
	}
	return nil
}

// looks is how often a semaphore that others change is looked at.
const looks = 5

// readAdjustments asks all threads at once, and again for what others have
// changed meanwhile.
func readAdjustments(ctx context.Context, host sdk.Host, tids []int, list []semadj.Semaphore) ([]semadj.Adjustment, error) {
	var all []semadj.Adjustment
	for look := 1; len(list) > 0; look++ {
		var there []semadj.Semaphore
		for _, s := range list {
			var err error
			s.Value, err = kern.SemaphoreValue(s.Set, s.Number)
			switch {
			case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIDRM):
				continue // removed since
			case err != nil:
				return nil, fmt.Errorf("semaphore %d of %d: %w", s.Number, s.Set, err)
			}
			there = append(there, s)
		}
		found, err := semadj.Read(ctx, host, tids, there)
		if err != nil {
			return nil, err
		}
		again := map[semadj.Semaphore]bool{}
		for _, a := range found {
			if again[a.Semaphore] = again[a.Semaphore] || errors.Is(a.Err, semadj.ErrBusy) && look < looks; !again[a.Semaphore] {
				all = append(all, a)
			}
		}
		list = slices.DeleteFunc(there, func(s semadj.Semaphore) bool { return !again[s] })
	}
	return all, nil
}

// adjusts reports what a thread has, or that it cannot be known.
func (s suspect) adjusts(a semadj.Adjustment, users map[int]bool) {
	switch {
	case errors.Is(a.Err, semadj.ErrUnreadable) && !users[s.proc.TGID()]:
		// It may not use the semaphore, and has not been the last who did.
	case a.Err != nil:
		s.block(s.thread, semaphoreSubject, fmt.Sprintf("semaphore %d of %d: %v", a.Number, a.Set, a.Err), "try again")
	default:
		s.block(s.thread, semaphoreSubject, fmt.Sprintf("semaphore %d of %d changes by %d when the task ends (SEM_UNDO)", a.Number, a.Set, a.By),
			"run the program in an IPC namespace (unshare --ipc)")
	}
}
