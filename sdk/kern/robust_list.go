package kern

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// GetRobustList returns the address of the head of a thread's list of robust
// futexes and the length of the head's structure; address 0 if the thread has
// none. It needs ptrace read rights over the thread (0: the caller). See
// get_robust_list(2).
func GetRobustList(tid int) (head uint64, size int, err error) {
	var addr, length uintptr
	_, _, errno := unix.RawSyscall(unix.SYS_GET_ROBUST_LIST, uintptr(tid),
		uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&length)))
	if errno != 0 {
		return 0, 0, errno
	}
	return uint64(addr), int(length), nil
}
