package ipc

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Limits of the kernel (linux/sem.h).
const (
	maxSemaphores = 32000
	maxSemValue   = 32767
)

// dumpSemaphores emits the semaphores of the calling thread's namespace.
func (d *dump) dumpSemaphores(ctx context.Context) error {
	rows, err := procfs.SysVIPC(procfs.Semaphores)
	if err != nil {
		return err
	}
	sets, err := readSets(rows)
	if err != nil {
		return err
	}
	adjusted, err := readAdjustments(ctx, d.host, sets, d.members)
	if err != nil {
		return err
	}
	for _, s := range sets {
		d.translate(s)
		d.adjust(s, adjusted)
		if err := d.emit.Emit(ctx, kindSemaphores, d.object, s); err != nil {
			return err
		}
	}
	return nil
}

// readSets reads the semaphores of the calling thread's namespace.
func readSets(rows []procfs.SysVObject) ([]*ipcpb.SemaphoreSet, error) {
	var sets []*ipcpb.SemaphoreSet
	for _, r := range rows {
		s, err := readSemaphores(r)
		if err != nil {
			return nil, fmt.Errorf("semaphores %d: %w", r.ID, err)
		}
		sets = append(sets, s)
	}
	return sets, nil
}

// translate puts the tree's numbers into the place of this process's. One that is
// not in the tree is made one that no task can have.
func (d *dump) translate(s *ipcpb.SemaphoreSet) {
	const nobody = 1<<31 - 1
	tree := sdk.Tree{}
	for _, p := range d.members {
		tree.Processes = append(tree.Processes, *p)
	}
	for i, pid := range s.Last {
		if pid == 0 {
			continue
		}
		s.Last[i] = nobody
		if p := tree.ByPID(int(pid)); p != nil {
			s.Last[i] = uint32(p.ID)
		}
	}
}

func readSemaphores(r procfs.SysVObject) (*ipcpb.SemaphoreSet, error) {
	s := &ipcpb.SemaphoreSet{Owner: owner(&r), Used: r.Numbers["otime"] != 0}
	id, n := uintptr(s.Owner.Id), int(r.Numbers["nsems"])
	values := make([]byte, 2*n)
	if _, err := call(unix.SYS_SEMCTL, id, 0, semGetAll, pointer(values)); err != nil {
		return nil, fmt.Errorf("read values: %w", err)
	}
	for i := range n {
		s.Values = append(s.Values, uint32(binary.NativeEndian.Uint16(values[2*i:])))
		pid, err := kern.SemaphorePID(s.Owner.Id, i)
		if err != nil {
			return nil, fmt.Errorf("read last process: %w", err)
		}
		s.Last = append(s.Last, uint32(pid))
	}
	return s, nil
}

// restoreSemaphores makes a set with its values, for which the last process is
// the plugin until lastProcesses sets it.
func restoreSemaphores(s *ipcpb.SemaphoreSet) error {
	err := create(procfs.Semaphores, s.Owner, func(key, flags uintptr) (int, error) {
		return call(unix.SYS_SEMGET, key, uintptr(len(s.Values)), flags)
	})
	if err != nil {
		return err
	}
	id := uintptr(s.Owner.Id)
	if s.Used {
		// Programs wait for sem_otime to be set, by which they see that a set is
		// initialized (semctl(2)). To find a semaphore zero, as all are yet, is
		// an operation, too.
		i := max(slices.IndexFunc(s.Last, func(pid uint32) bool { return pid != 0 }), 0)
		op := make([]byte, 6) // struct sembuf: u16 number, s16 operation, s16 flags
		binary.NativeEndian.PutUint16(op, uint16(i))
		binary.NativeEndian.PutUint16(op[4:], unix.IPC_NOWAIT)
		if _, err := call(unix.SYS_SEMOP, id, pointer(op), 1); err != nil {
			return fmt.Errorf("semop: %w", err)
		}
	}
	for i, v := range s.Values {
		if v == 0 && s.Last[i] == 0 {
			continue // nobody has ever set it
		}
		if _, err := call(unix.SYS_SEMCTL, id, uintptr(i), semSetVal, uintptr(v)); err != nil {
			return fmt.Errorf("set semaphore %d: %w", i, err)
		}
	}
	return setOwner(procfs.Semaphores, s.Owner, nil)
}

func validSemaphores(s *ipcpb.SemaphoreSet) error {
	big := func(v uint32) bool { return v > maxSemValue }
	if n := len(s.Values); n == 0 || n > maxSemaphores || len(s.Last) != n || slices.ContainsFunc(s.Values, big) {
		return fmt.Errorf("set of %d semaphores, %d processes: %w", n, len(s.Last), sdk.ErrCorrupt)
	}
	return validAdjustments(s)
}
