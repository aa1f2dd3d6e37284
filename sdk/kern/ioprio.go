package kern

import "golang.org/x/sys/unix"

// Classes of I/O priorities, in the upper bits of a value (ioprio_set(2)).
const (
	IoprioNone     = 0
	IoprioRealtime = 1
	IoprioBestEff  = 2
	IoprioIdle     = 3
)

// IoprioWhoProcess makes ioprio_get(2) and ioprio_set(2) speak of one thread.
const IoprioWhoProcess = 1

// IoprioClass takes the class out of a value.
func IoprioClass(value int) int { return value >> 13 & 7 }

// IoprioGet returns the I/O priority of a thread (0: the caller).
func IoprioGet(tid int) (int, error) {
	r, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_GET, IoprioWhoProcess, uintptr(tid), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// IoprioSet sets the I/O priority of a thread (0: the caller).
func IoprioSet(tid, value int) error {
	_, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, IoprioWhoProcess, uintptr(tid), uintptr(value))
	if errno != 0 {
		return errno
	}
	return nil
}
