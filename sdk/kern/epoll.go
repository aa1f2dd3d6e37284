package kern

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// kcmpEpollTFD is KCMP_EPOLL_TFD (linux/kcmp.h).
const kcmpEpollTFD = 7

// EpollHas tells whether descriptor fd of the process is the file that its
// epoll instance epfd watches under number target. Of several files that were
// added under the same number, skip chooses one, in the order of fdinfo. See
// kcmp(2); since Linux 4.13.
func EpollHas(pid, fd, epfd, target, skip int) (bool, error) {
	slot := struct{ efd, tfd, toff uint32 }{uint32(epfd), uint32(target), uint32(skip)}
	r, _, errno := unix.RawSyscall6(unix.SYS_KCMP, uintptr(pid), uintptr(pid), kcmpEpollTFD,
		uintptr(fd), uintptr(unsafe.Pointer(&slot)), 0)
	if errno != 0 {
		return false, errno
	}
	return r == 0, nil
}

// EpollParams is struct epoll_params (linux/eventpoll.h): busy polling of an
// epoll instance, since Linux 6.9.
type EpollParams struct {
	BusyPollUsecs  uint32
	BusyPollBudget uint16
	PreferBusyPoll uint8
	_              uint8
}

// EpollIoctlSetParams is EPIOCSPARAMS, EpollIoctlGetParams EPIOCGPARAMS.
const (
	EpollIoctlSetParams = 0x40088a01
	EpollIoctlGetParams = 0x80088a02
)

// GetEpollParams reads the parameters of an epoll instance; ENOTTY or EINVAL
// on kernels that have none.
func GetEpollParams(epfd int) (p EpollParams, err error) {
	err = ioctl(epfd, EpollIoctlGetParams, unsafe.Pointer(&p))
	return p, err
}

// SetEpollParams sets the parameters of an epoll instance.
func SetEpollParams(epfd int, p EpollParams) error {
	return ioctl(epfd, EpollIoctlSetParams, unsafe.Pointer(&p))
}

// timerfdSetTicks is TFD_IOC_SET_TICKS (linux/timerfd.h).
const timerfdSetTicks = 0x40085400

// SetTimerfdTicks sets the number of expirations that were not read yet; not
// 0. Since Linux 3.17 with CONFIG_CHECKPOINT_RESTORE.
func SetTimerfdTicks(fd int, ticks uint64) error {
	return ioctl(fd, timerfdSetTicks, unsafe.Pointer(&ticks))
}

func ioctl(fd int, req uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
