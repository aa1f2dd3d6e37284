package probe

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk/kern"
)

func haveVDSOGadget() (string, error) {
	_, image, err := arch.VDSO()
	if err != nil {
		return "", err
	}
	n := len(arch.Gadgets(image))
	if n == 0 {
		return "", lacks("no usable system call instruction in the vdso")
	}
	return fmt.Sprintf("%d found", n), nil
}

// cloneArgs is struct clone_args of Linux 5.5 (CLONE_ARGS_SIZE_VER1).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal uint64
	stack, stackSize, tls, setTID, setTIDSize     uint64
}

// haveCloneSetTID asks for a child with the PID of this process: the kernel
// checks the right first (EPERM) and then finds the PID taken (EEXIST).
func haveCloneSetTID() (string, error) {
	pid := int32(os.Getpid())
	var pin runtime.Pinner
	pin.Pin(&pid)
	defer pin.Unpin()
	args := cloneArgs{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(&pid))), setTIDSize: 1}
	r, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno == 0 && r == 0 {
		for { // a child that cannot be: it must not go on in Go
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
		}
	}
	switch {
	case errno == unix.EEXIST:
		return "", nil
	case errno == unix.EPERM:
		return "", fmt.Errorf("%w: needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN", errno)
	case errno == 0:
		reap(int(r))
		return "", errors.New("the kernel gave away a PID that is taken")
	}
	return "", errno
}

func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func haveSetMMMap() (string, error) {
	var size uint32
	if err := prctl(unix.PR_SET_MM, unix.PR_SET_MM_MAP_SIZE, uintptr(unsafe.Pointer(&size)), 0); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes", size), nil
}

func haveMapVDSO() (string, error) { return "", arch.HaveMapVDSO() }

// PR_TIMER_CREATE_RESTORE_IDS and its question, in uapi/linux/prctl.h; since
// Linux 6.15.
const (
	prTimerCreateRestoreIDs    = 77
	prTimerCreateRestoreIDsGet = 2
)

func haveTimerIDs() (string, error) {
	return "", prctl(prTimerCreateRestoreIDs, prTimerCreateRestoreIDsGet, 0, 0)
}

func haveAnonNames() (string, error) {
	mem, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return "", err
	}
	defer unix.Munmap(mem)
	name := []byte("firn\x00")
	var pin runtime.Pinner
	pin.Pin(&name[0])
	defer pin.Unpin()
	_, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_VMA, unix.PR_SET_VMA_ANON_NAME,
		uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&name[0])), 0)
	if errno != 0 {
		return "", errno
	}
	return "", nil
}

func prctl(option int, a2, a3, a4 uintptr) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, uintptr(option), a2, a3, a4, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func havePidfdGetfd() (string, error) {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return "", fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, pidfd, 0)
	if err != nil {
		return "", err
	}
	return "", unix.Close(fd)
}

func haveKcmp() (string, error) {
	self := os.Getpid()
	order, err := kern.Kcmp(self, self, kern.KcmpVM, 0, 0)
	if err == nil && order != 0 {
		err = errors.New("a process is not equal to itself")
	}
	return "", err
}

func haveTimeNamespaces() (string, error) {
	_, err := os.Readlink("/proc/self/ns/time_for_children")
	return "", err
}
