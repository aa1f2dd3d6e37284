package arch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Notes of PTRACE_GETREGSET, from elf.h.
const (
	ntPrstatus = 1
	ntPrfpreg  = 2
)

// getRegset reads a register set into b and returns how many bytes there are.
func getRegset(tid, note int, b []byte) (int, error) {
	return regset(unix.PTRACE_GETREGSET, tid, note, b)
}

// setRegset writes a register set.
func setRegset(tid, note int, b []byte) error {
	_, err := regset(unix.PTRACE_SETREGSET, tid, note, b)
	return err
}

func regset(request, tid, note int, b []byte) (int, error) {
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), uintptr(note),
		uintptr(unsafe.Pointer(&iov)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(iov.Len), nil
}
