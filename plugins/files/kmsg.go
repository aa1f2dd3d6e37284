package files

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
)

// kmsgMinor is the minor number of /dev/kmsg, the kernel's log, among the memory
// devices. Every description that can be read has a position of its own in it, the
// number of the next message, which nobody is told
// (Documentation/ABI/testing/dev-kmsg).
const kmsgMinor = 11

// maxMessage bounds one message (PRINTKRB_RECORD_MAX, kernel/printk/printk.c, with
// room for another kernel's).
const maxMessage = 16 << 10

func isKmsg(rdev uint64) bool {
	return unix.Major(rdev) == devMajor && unix.Minor(rdev) == kmsgMinor
}

// examineKmsg finds out which message comes next. To read it would move the
// position; but of a reader that has read everything it is known.
func (s *survey) examineKmsg(it *item, d *filespb.Device) error {
	if it.file().Flags&unix.O_ACCMODE == unix.O_WRONLY || !s.frozen {
		return nil
	}
	path, err := devicePath(d)
	if err != nil {
		return err
	}
	if d.NextMessage, err = endOfLog(path); err != nil {
		return err
	}
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 0); err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	// What was logged since the end was looked for would be unread as well.
	if poll[0].Revents != 0 {
		s.block(it, it.file().Link+": has messages that the program has not read yet: the kernel does not tell which is the next", "try again")
		it.msg = nil
	}
	return nil
}

// endOfLog returns the number of the message that will be logged next.
func endOfLog(path string) (uint64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	next := uint64(0)
	for {
		number, err := readMessage(fd)
		if errors.Is(err, unix.EAGAIN) {
			return next, nil
		}
		if err != nil {
			return 0, err
		}
		next = number + 1
	}
}

// seekMessage moves a description that was opened just now to a message. If those
// before it are gone, it stays at the first that there is.
func seekMessage(fd int, next uint64) error {
	for {
		number, err := readMessage(fd)
		switch {
		case errors.Is(err, unix.EAGAIN) || err == nil && number+1 == next:
			return nil
		case err != nil:
			return err
		case number >= next:
			_, err := unix.Seek(fd, 0, unix.SEEK_SET)
			return err
		}
	}
}

// readMessage reads a message and returns its number. EPIPE tells that some were
// overwritten meanwhile, and is not an end.
func readMessage(fd int) (uint64, error) {
	var buf [maxMessage]byte
	for {
		n, err := unix.Read(fd, buf[:])
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read the kernel's log: %w", err)
		}
		// "6,1234,5678,-;text"
		fields := bytes.SplitN(buf[:n], []byte(","), 3)
		if len(fields) < 3 {
			return 0, fmt.Errorf("message %q of the kernel's log has no number", buf[:n])
		}
		return strconv.ParseUint(string(fields[1]), 10, 64)
	}
}
