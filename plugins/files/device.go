package files

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// examineDevice handles the memory devices.
func (s *survey) examineDevice(it *item) error {
	f := it.file()
	if _, ok := isDevice(f.Rdev); !ok {
		s.block(it, fmt.Sprintf("%s: device %d:%d is not carried", f.Link, unix.Major(f.Rdev), unix.Minor(f.Rdev)), "")
		return nil
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	it.kind = kindDevice
	msg := &filespb.Device{Description: d, Path: []byte(f.Link), Rdev: f.Rdev, Offset: f.Offset}
	it.msg = msg
	if isKmsg(f.Rdev) {
		return s.examineKmsg(it, msg)
	}
	return nil
}

// devicePath finds the device: where it was, or else where every system has it
// (a container has its own /dev, which may be gone).
func devicePath(d *filespb.Device) (string, error) {
	usual, ok := isDevice(d.GetRdev())
	if !ok {
		return "", fmt.Errorf("device %d:%d: %w", unix.Major(d.GetRdev()), unix.Minor(d.GetRdev()), sdk.ErrUnsupported)
	}
	for _, path := range []string{string(d.GetPath()), usual} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == d.GetRdev() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: device %d:%d is not there: %w", d.GetPath(),
		unix.Major(d.GetRdev()), unix.Minor(d.GetRdev()), sdk.ErrChanged)
}

func openDevice(d *filespb.Device) (int, error) {
	path, err := devicePath(d)
	if err != nil {
		return -1, err
	}
	flags := d.GetDescription().GetFlags()
	fd, err := reopen(path, flags)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	if isKmsg(d.GetRdev()) && flags&unix.O_ACCMODE != unix.O_WRONLY {
		if err := seekMessage(fd, d.GetNextMessage()); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("%s: %w", path, err)
		}
	}
	// /dev/null, /dev/zero and /dev/kmsg have no offset and stay at 0.
	if d.GetOffset() != 0 {
		if _, err := unix.Seek(fd, d.GetOffset(), unix.SEEK_SET); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("%s: seek to %d: %w", path, d.GetOffset(), err)
		}
	}
	if err := openfile.SetFlags(fd, flags); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return fd, nil
}
