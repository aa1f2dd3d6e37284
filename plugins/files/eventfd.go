package files

import (
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

func (s *survey) examineEventfd(it *item) error {
	info, err := s.access.FDInfo(it.res)
	if err != nil {
		return err
	}
	if info.Eventfd == nil {
		return fmt.Errorf("fdinfo of an eventfd has no count: %w", sdk.ErrKernel)
	}
	if !info.Eventfd.SemaphoreKnown {
		s.report.Note(it.res, "eventfd: this kernel (before 6.5) does not tell whether it has EFD_SEMAPHORE; it will not have it")
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	it.kind = kindEventfd
	it.msg = &filespb.Eventfd{Description: d, Count: info.Eventfd.Count, Semaphore: info.Eventfd.Semaphore}
	return nil
}

// makeEventfd makes an eventfd with its count. eventfd2(2) takes 32 bits only;
// the count is written instead.
func makeEventfd(e *filespb.Eventfd) (int, error) {
	flags := unix.EFD_CLOEXEC | unix.EFD_NONBLOCK
	if e.GetSemaphore() {
		flags |= unix.EFD_SEMAPHORE
	}
	fd, err := unix.Eventfd(0, flags)
	if err != nil {
		return -1, fmt.Errorf("eventfd: %w", err)
	}
	// The kernel itself can push the count to its maximum, write(2) cannot.
	if count := min(e.GetCount(), math.MaxUint64-1); count != 0 {
		if _, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, count)); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("eventfd: write: %w", err)
		}
	}
	if err := openfile.SetFlags(fd, e.GetDescription().GetFlags()); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
