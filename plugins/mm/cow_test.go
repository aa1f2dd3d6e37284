package mm

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cow shares pages with a child, which does nothing and ends with its parent.
func (s *subject) cow() error {
	a, err := s.mapAt("cow", 512, protRW, private, -1)
	if err != nil {
		return err
	}
	a.fill(0, 512)
	runtime.LockOSThread() // the child's parent is this thread
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("fork: %w", errno)
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
		for {
			unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		}
	}
	s.Areas["child"] = area{uint64(pid), uint64(pid)}
	a.fill(100, 200) // these are not shared any more
	return nil
}

// refused sets up what cannot be carried, as far as the kernel has it.
func (s *subject) refused() error {
	return errors.Join(s.refusedShm(), s.refusedOptional())
}

func (s *subject) refusedShm() error {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, int(pageSize), unix.IPC_CREAT|0o600)
	if err != nil {
		return err
	}
	mem, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return err
	}
	at := uint64(addressOf(mem))
	s.Areas["System V"] = area{at, at + pageSize}
	_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	return err
}

// refusedOptional sets up what not every kernel has.
func (s *subject) refusedOptional() error {
	var ctx uint64
	if _, err := raw("io_setup", unix.SYS_IO_SETUP, 8, uint64(uintptr(unsafe.Pointer(&ctx)))); err == nil {
		s.Areas["asynchronous"] = area{ctx, ctx + pageSize}
	}
	if fd, err := raw("memfd_secret", unix.SYS_MEMFD_SECRET, 0); err == nil {
		if err := unix.Ftruncate(int(fd), int64(pageSize)); err != nil {
			return err
		}
		if _, err := s.mapAt("secret", 1, protRW, shared, int(fd)); err != nil {
			return err
		}
	}
	return s.userfault()
}

// userfault registers memory with userfaultfd(2).
func (s *subject) userfault() error {
	const api, register, missing = 0xc018aa3f, 0xc020aa00, 1
	fd, err := raw("userfaultfd", unix.SYS_USERFAULTFD, unix.O_CLOEXEC)
	if err != nil {
		return nil //nolint:nilerr // not on this kernel, or not allowed
	}
	a, err := s.mapAt("userfaultfd", 1, protRW, private, -1)
	if err != nil {
		return err
	}
	hello := [3]uint64{0xaa}
	if _, err := raw("UFFDIO_API", unix.SYS_IOCTL, fd, api, uint64(uintptr(unsafe.Pointer(&hello)))); err != nil {
		return err
	}
	reg := [4]uint64{a.Start, a.End - a.Start, missing}
	_, err = raw("UFFDIO_REGISTER", unix.SYS_IOCTL, fd, register, uint64(uintptr(unsafe.Pointer(&reg))))
	return err
}
