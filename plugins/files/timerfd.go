package files

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
)

func (s *survey) examineTimerfd(it *item) error {
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Counts the expirations of a periodic timer that were not counted yet,
	// as any read of the timer does: the kernel does it late.
	var cur unix.ItimerSpec
	if err := unix.TimerfdGettime(fd, &cur); err != nil {
		return fmt.Errorf("timerfd_gettime: %w", err)
	}
	info, err := s.access.FDInfo(it.res)
	if err != nil {
		return err
	}
	t := info.Timerfd
	if t == nil {
		return fmt.Errorf("fdinfo of a timerfd has no timer: %w", sdk.ErrKernel)
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	msg := &filespb.Timerfd{
		Description: d, Clock: int32(t.ClockID), SettimeFlags: t.Settime, Ticks: t.Ticks,
		Remaining: t.Value.Nano(), Interval: t.Interval.Nano(),
	}
	if isWallClock(t.ClockID) && t.Settime&unix.TFD_TIMER_ABSTIME != 0 && msg.Remaining != 0 {
		var now unix.Timespec
		if err := unix.ClockGettime(int32(unix.CLOCK_REALTIME), &now); err != nil {
			return fmt.Errorf("clock_gettime: %w", err)
		}
		msg.Deadline = now.Nano() + msg.Remaining
	}
	it.kind, it.msg = kindTimerfd, msg
	return nil
}

// isWallClock tells whether the clock means the same after a restore. The
// others count from the boot of a machine: what is left is kept for them.
func isWallClock(clock int) bool {
	return clock == unix.CLOCK_REALTIME || clock == unix.CLOCK_REALTIME_ALARM
}

// makeTimerfd makes a timerfd that expires as the old one would have: after
// the time that was left, or at the same time of day.
func makeTimerfd(t *filespb.Timerfd) (fd int, err error) {
	fd, err = unix.TimerfdCreate(int(t.GetClock()), unix.TFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("timerfd: clock %d: %w", t.GetClock(), err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := armTimerfd(fd, t); err != nil {
		return -1, fmt.Errorf("timerfd: %w", err)
	}
	if t.GetTicks() != 0 {
		// After settime, which forgets the ticks.
		if err := kern.SetTimerfdTicks(fd, t.GetTicks()); err != nil {
			return -1, fmt.Errorf("timerfd: set %d ticks: %w", t.GetTicks(), err)
		}
	}
	return fd, openfile.SetFlags(fd, t.GetDescription().GetFlags())
}

func armTimerfd(fd int, t *filespb.Timerfd) error {
	if t.GetRemaining() < 0 || t.GetInterval() < 0 {
		return fmt.Errorf("negative time: %w", sdk.ErrCorrupt)
	}
	spec := unix.ItimerSpec{
		Interval: unix.NsecToTimespec(t.GetInterval()),
		Value:    unix.NsecToTimespec(t.GetRemaining()),
	}
	flags := int(t.GetSettimeFlags())
	switch {
	case flags&unix.TFD_TIMER_ABSTIME == 0:
	case t.GetDeadline() != 0:
		spec.Value = unix.NsecToTimespec(t.GetDeadline())
	case t.GetRemaining() != 0:
		var now unix.Timespec
		if err := unix.ClockGettime(t.GetClock(), &now); err != nil {
			return fmt.Errorf("clock_gettime: %w", err)
		}
		spec.Value = unix.NsecToTimespec(now.Nano() + t.GetRemaining())
	}
	if spec.Value == (unix.Timespec{}) && spec.Interval == (unix.Timespec{}) && flags == 0 {
		return nil // never armed
	}
	if err := unix.TimerfdSettime(fd, flags, &spec, nil); err != nil && !errors.Is(err, unix.ECANCELED) {
		return fmt.Errorf("timerfd_settime: %w", err)
	}
	return nil
}
