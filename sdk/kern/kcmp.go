// Package kern wraps Linux system calls that golang.org/x/sys/unix does not
// have. Every wrapper returns a syscall.Errno on failure.
package kern

import (
	"golang.org/x/sys/unix"
)

// KcmpType says what [Kcmp] compares (linux/kcmp.h).
type KcmpType int

// The kinds of objects that two tasks may share.
const (
	KcmpFile    KcmpType = 0 // an open file description
	KcmpVM      KcmpType = 1 // the address space
	KcmpFiles   KcmpType = 2 // the file descriptor table
	KcmpFS      KcmpType = 3 // root, cwd and umask
	KcmpSighand KcmpType = 4 // signal actions
	KcmpIO      KcmpType = 5 // the I/O context
	KcmpSysVSem KcmpType = 6 // System V semaphore undo list
)

// Kcmp orders the kernel objects of two tasks: 0 if they are one object, -1 or
// 1 by an order that is arbitrary but stable until the next boot. idx1 and
// idx2 are descriptors for [KcmpFile] and unused otherwise. See kcmp(2); since
// Linux 3.5 with CONFIG_KCMP.
func Kcmp(pid1, pid2 int, typ KcmpType, idx1, idx2 uint) (int, error) {
	r, _, errno := unix.RawSyscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), uintptr(typ), uintptr(idx1), uintptr(idx2), 0)
	if errno != 0 {
		return 0, errno
	}
	switch r {
	case 0:
		return 0, nil
	case 1:
		return -1, nil
	case 2:
		return 1, nil
	}
	// 3: not equal, but no order can be told; kcmp(2) says so for the future.
	return 0, unix.EOPNOTSUPP
}
