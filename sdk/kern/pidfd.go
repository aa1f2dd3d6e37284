package kern

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pidfdGetInfo is PIDFD_GET_INFO with the first version of struct pidfd_info
// (linux/pidfd.h, since 6.13), pidfdInfoExit its bit PIDFD_INFO_EXIT (since
// 6.15).
const (
	pidfdGetInfo  = 0xC040FF0B
	pidfdInfoExit = 1 << 3
)

// pidfdInfo is struct pidfd_info.
type pidfdInfo struct {
	mask, cgroup uint64
	pid, tgid    uint32
	ppid         uint32
	uids         [8]uint32
	exitCode     int32
}

// PidfdExitStatus tells how the process of a pidfd ended, which was reaped
// already. ok is false if the kernel does not know.
func PidfdExitStatus(fd int) (status unix.WaitStatus, ok bool) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	if errno != 0 || info.mask&pidfdInfoExit == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.exitCode), true
}

// cloneArgs is struct clone_args as far as it is needed (CLONE_ARGS_SIZE_VER0).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID uint64
	exitSignal, stack, stackSize, tls uint64
}

// DeadPidfd returns a pidfd of a process that ended with this status and was
// reaped: it makes one that ends at once, without a core dump. The process was
// in a PID namespace, given as a path to its file in /proc: what a pidfd is for
// depends on it.
func DeadPidfd(status unix.WaitStatus, namespace string) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old, none unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return -1, fmt.Errorf("block signals: %w", err)
	}
	var fd int32
	args := cloneArgs{flags: unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND, pidfd: uint64(uintptr(unsafe.Pointer(&fd)))}
	pid, err := 0, enterForChildren(namespace)
	if err == nil {
		var errno unix.Errno
		if pid, errno = cloneAndExit(&args, &none, status); errno != 0 {
			err = fmt.Errorf("clone3: %w", errno)
		}
		err = errors.Join(err, enterForChildren("/proc/self/ns/pid"))
	}
	err = errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil))
	runtime.KeepAlive(&fd)
	if pid == 0 {
		return -1, err
	}
	for {
		// It has no exit signal, so only __WALL finds it.
		_, werr := unix.Wait4(pid, nil, unix.WALL, nil)
		if errors.Is(werr, unix.EINTR) {
			continue
		}
		if err = errors.Join(err, werr); err != nil {
			unix.Close(int(fd))
			return -1, fmt.Errorf("wait: %w", err)
		}
		return int(fd), nil
	}
}

// enterForChildren makes children of this thread be born into a PID namespace.
func enterForChildren(namespace string) error {
	fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open PID namespace: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("enter PID namespace: %w", err)
	}
	return nil
}

// cloneAndExit makes a copy of this process, which has the calling thread only.
// Until its end it does nothing but raw system calls: the runtime does not know
// of it.
//
//go:noinline
//go:norace
func cloneAndExit(args *cloneArgs, none *unix.Sigset_t, status unix.WaitStatus) (int, unix.Errno) {
	signal, code := uintptr(status&0x7f), uintptr(status>>8&0xff)
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	if signal != 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0)
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(none)), 0, 8, 0, 0)
		self, _, _ := unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
		_, _, _ = unix.RawSyscall(unix.SYS_KILL, self, signal, 0)
	}
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, code, 0, 0)
	}
}
