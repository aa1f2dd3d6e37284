package files

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

func (s *survey) examineSignalfd(it *item) error {
	info, err := s.access.FDInfo(it.res)
	if err != nil {
		return err
	}
	if info.Sigmask == nil {
		return fmt.Errorf("fdinfo of a signalfd has no mask: %w", sdk.ErrKernel)
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	it.kind = kindSignalfd
	it.msg = &filespb.Signalfd{Description: d, Mask: *info.Sigmask}
	return nil
}

// makeSignalfd makes a signalfd. It has no task of its own: whoever reads it
// gets its own signals.
func makeSignalfd(s *filespb.Signalfd) (int, error) {
	mask := unix.Sigset_t{Val: [16]uint64{s.GetMask()}}
	fd, err := unix.Signalfd(-1, &mask, unix.SFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("signalfd: %w", err)
	}
	if err := openfile.SetFlags(fd, s.GetDescription().GetFlags()); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
