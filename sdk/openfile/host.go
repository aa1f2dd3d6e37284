package openfile

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/kern"
)

// OfHost returns a close-on-exec duplicate of a descriptor that the host, which
// is the parent of every plugin, was started with. It is for flags by which the
// user hands over files; the host has made sure that the number is not one of
// its own.
func OfHost(fd int) (int, error) {
	host, err := kern.OpenPidfd(os.Getppid())
	if err != nil {
		return -1, err
	}
	defer unix.Close(host)
	got, err := unix.PidfdGetfd(host, fd, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_getfd: %w", err)
	}
	return got, nil
}
