package kern

import (
	"errors"

	"golang.org/x/sys/unix"
)

// semGetPID is GETPID of semctl(2).
const semGetPID = 11

// semGetVal is GETVAL of semctl(2).
const semGetVal = 12

// SemaphoreValue returns the value of a System V semaphore in the IPC namespace of
// the calling thread.
func SemaphoreValue(id int32, number int) (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_SEMCTL, uintptr(id), uintptr(number), semGetVal)
	if errno != 0 {
		return 0, errno
	}
	return int(v), nil
}

// SemaphorePID returns the process that changed a System V semaphore last, 0 if
// none did, in the IPC namespace of the calling thread.
func SemaphorePID(id int32, number int) (int, error) {
	pid, _, errno := unix.Syscall(unix.SYS_SEMCTL, uintptr(id), uintptr(number), semGetPID)
	if errno != 0 {
		return 0, errno
	}
	return int(pid), nil
}

// SameUndo tells whether two threads share their list of System V semaphore
// operations that the kernel undoes (CLONE_SYSVSEM), or both have none.
func SameUndo(a, b int) (bool, error) {
	order, err := Kcmp(a, b, KcmpSysVSem, 0, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return true, nil
	}
	return order == 0, err
}

// MayUndo tells whether some of the threads have a list of System V semaphore
// operations that the kernel undoes when they end (SEM_UNDO, semop(2)). What is
// in a list cannot be told, nor whether it is empty: every thread has one once
// its process had a second thread (CLONE_SYSVSEM, clone(2)). A thread without a
// list has nothing to undo. Without CONFIG_SYSVIPC nobody has.
func MayUndo(tids ...int) (may bool, err error) {
	err = OnThread(func() (err error) {
		may, err = mayUndo(tids)
		return err
	})
	return may, err
}

// mayUndo compares with the calling thread, which drops its own list.
func mayUndo(tids []int) (bool, error) {
	if err := unix.Unshare(unix.CLONE_SYSVSEM); err != nil {
		return false, err
	}
	for _, tid := range tids {
		order, err := Kcmp(tid, unix.Gettid(), KcmpSysVSem, 0, 0)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return false, nil
		}
		if err != nil || order != 0 {
			return err == nil, err
		}
	}
	return false, nil
}
