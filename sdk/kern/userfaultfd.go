package kern

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of userfaultfd(2) and modes of registration (linux/userfaultfd.h).
const (
	// UserfaultUserModeOnly makes a descriptor that faults of the kernel do not
	// reach. It takes no rights (Linux 5.11).
	UserfaultUserModeOnly = 1
	// UserfaultMissing registers for faults on pages that are not there.
	UserfaultMissing = 1
)

// Requests of ioctl_userfaultfd(2).
const (
	uffdioAPI        = 0xc018aa3f
	uffdioRegister   = 0xc020aa00
	uffdioUnregister = 0x8010aa01
	uffdioCopy       = 0xc028aa03
	uffdAPI          = 0xaa
)

// UserfaultAPI makes a new userfaultfd ready for use, without extra features.
func UserfaultAPI(fd int) error {
	arg := [3]uint64{uffdAPI, 0, 0} // api, features, ioctls
	return uffdIoctl(fd, uffdioAPI, unsafe.Pointer(&arg))
}

// UserfaultRegister registers the range of whole mappings of the process that
// made the descriptor. From then on UserfaultCopy can fill it, and a task that
// touches a page that is not there waits.
func UserfaultRegister(fd int, start, length, mode uint64) error {
	arg := [4]uint64{start, length, mode, 0} // the last is an answer: ioctls
	return uffdIoctl(fd, uffdioRegister, unsafe.Pointer(&arg))
}

// UserfaultUnregister ends a registration and wakes who waits.
func UserfaultUnregister(fd int, start, length uint64) error {
	arg := [2]uint64{start, length}
	return uffdIoctl(fd, uffdioUnregister, unsafe.Pointer(&arg))
}

// UserfaultCopy makes pages in a registered range and fills them from src, both
// page aligned in length. Pages that are there already are EEXIST. It returns
// how many bytes were copied, also with an error; EAGAIN asks for another try
// with the rest.
func UserfaultCopy(fd int, dst uint64, src []byte) (int, error) {
	if len(src) == 0 {
		return 0, nil
	}
	var pin runtime.Pinner
	pin.Pin(&src[0]) // the kernel gets its address inside arg
	defer pin.Unpin()
	arg := struct {
		dst, src, len, mode uint64
		copied              int64
	}{dst: dst, src: uint64(uintptr(unsafe.Pointer(&src[0]))), len: uint64(len(src))}
	err := uffdIoctl(fd, uffdioCopy, unsafe.Pointer(&arg))
	if err == nil {
		return len(src), nil
	}
	return int(max(arg.copied, 0)), err // a negative errno if nothing was copied
}

func uffdIoctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// HaveUserfaultCopy tells whether the calling process may make a userfaultfd
// and use it.
func HaveUserfaultCopy() bool {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|UserfaultUserModeOnly, 0, 0)
	if errno != 0 {
		return false
	}
	defer unix.Close(int(fd))
	return UserfaultAPI(int(fd)) == nil
}
