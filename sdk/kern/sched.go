package kern

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxCPUs bounds the CPU masks that [SchedGetaffinity] can take.
const MaxCPUs = 8192

// SchedGetaffinity returns the mask of the CPUs on which a thread (0: the
// caller) may run: bit n%8 of byte n/8 for CPU n. Its length is the kernel's,
// a multiple of 8 bytes. See sched_getaffinity(2).
func SchedGetaffinity(tid int) ([]byte, error) {
	mask := make([]byte, MaxCPUs/8)
	n, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, uintptr(tid),
		uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])))
	if errno != 0 {
		return nil, errno
	}
	return mask[:n], nil
}

// SchedCoreCookie returns the core scheduling cookie of a thread; 0 is none.
// Kernels without core scheduling answer EINVAL. Since Linux 5.14.
func SchedCoreCookie(tid int) (uint64, error) {
	var cookie uint64
	_, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_GET,
		uintptr(tid), unix.PR_SCHED_CORE_SCOPE_THREAD, uintptr(unsafe.Pointer(&cookie)), 0)
	if errno != 0 {
		return 0, errno
	}
	return cookie, nil
}
