package kern

import (
	"errors"

	"golang.org/x/sys/unix"
)

// inotifySetNextWD is INOTIFY_IOC_SETNEXTWD (linux/inotify.h), since Linux 4.16
// with CONFIG_CHECKPOINT_RESTORE.
const inotifySetNextWD = 0x40044900

// SetNextWatch makes the next inotify_add_watch(2) on an instance return wd,
// unless that number is in use. A kernel that cannot do that says ENOTTY.
func SetNextWatch(fd int, wd int32) error {
	err := unix.IoctlSetInt(fd, inotifySetNextWD, int(wd))
	if errors.Is(err, unix.ENOTTY) && wd == 1 {
		return nil // a new instance begins with 1
	}
	return err
}
