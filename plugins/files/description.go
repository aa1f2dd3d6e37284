package files

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// notReopened are the flags that open(2) must not get again: what creates
// files, and O_ASYNC, which needs the owner first.
const notReopened = unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC | unix.O_NOCTTY | unix.O_ASYNC

// tmpfile is the bit of O_TMPFILE that is its own: the flag contains
// O_DIRECTORY, which must go with it.
const tmpfile = unix.O_TMPFILE &^ unix.O_DIRECTORY

// reopen opens a path with the flags of an earlier description. It never
// blocks: O_NONBLOCK is added, and [openfile.SetFlags] takes it away again.
func reopen(path string, flags uint32) (int, error) {
	flags &^= notReopened
	if flags&tmpfile != 0 {
		flags &^= unix.O_TMPFILE
	}
	return unix.Open(path, int(flags)|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// reopenFD opens the file of a descriptor again. O_NOFOLLOW goes: the way leads
// through a link.
func reopenFD(fd int, flags uint32) (int, error) {
	return reopen(fmt.Sprintf("/proc/self/fd/%d", fd), flags&^unix.O_NOFOLLOW)
}
