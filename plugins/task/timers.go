package task

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// itimerspecSize is the size of struct itimerspec: interval, then value, each
// seconds and nanoseconds of 8 bytes.
const itimerspecSize = 32

// sigeventSize is the size of struct sigevent:
//
//	0 sigev_value   8 sigev_signo (4)   12 sigev_notify (4)   16 thread id (4)
const sigeventSize = 64

// sigevThreadID is SIGEV_THREAD_ID.
const sigevThreadID = 4

// maxTimerID bounds the ids on kernels before 6.15, where a timer has to be
// created for every id below.
const maxTimerID = 1 << 14

// readPosixTimers reads the timers of a process as far as /proc tells.
func readPosixTimers(p *sdk.Process) ([]*taskpb.PosixTimer, error) {
	timers, err := procfs.Timers(p.PID)
	if err != nil {
		return nil, err
	}
	records := make([]*taskpb.PosixTimer, len(timers))
	for i, t := range timers {
		r := &taskpb.PosixTimer{Id: uint32(t.ID), Clock: int32(t.Clock), Notify: uint32(t.Notify),
			Signal: uint32(t.Signal), Value: t.Value}
		if t.ThreadID {
			i := slices.IndexFunc(p.Threads, func(th sdk.Thread) bool { return th.TID == t.Target })
			if i < 0 {
				return nil, fmt.Errorf("timer %d notifies thread %d: %w", t.ID, t.Target, sdk.ErrTaskGone)
			}
			r.Notify |= sigevThreadID
			r.Thread = uint32(p.Threads[i].ID)
		}
		records[i] = r
	}
	slices.SortFunc(records, func(a, b *taskpb.PosixTimer) int { return int(a.Id) - int(b.Id) })
	return records, nil
}

// askPosixTimers asks how much time each timer has left.
func askPosixTimers(q *inquiry, timers []*taskpb.PosixTimer) {
	for _, t := range timers {
		ref := q.Buffer(itimerspecSize)
		q.Call(unix.SYS_TIMER_GETTIME, tape.Imm(t.Id), ref.Arg())
		overrun := q.Try(unix.SYS_TIMER_GETOVERRUN, tape.Imm(t.Id))
		q.then(func(_ *asked, o *tape.Outcome) error {
			b, err := returned(o, ref)
			if err != nil {
				return err
			}
			le := binary.LittleEndian
			t.IntervalNs = le.Uint64(b)*1e9 + le.Uint64(b[8:])
			t.RemainingNs = le.Uint64(b[16:])*1e9 + le.Uint64(b[24:])
			if v, err := o.Value(overrun); err == nil {
				t.Overrun = uint32(v)
			}
			return nil
		})
	}
}

// restoresTimerIDs tells whether the kernel creates timers with a given id
// (since Linux 6.15).
func restoresTimerIDs() bool {
	_, err := unix.PrctlRetInt(unix.PR_TIMER_CREATE_RESTORE_IDS, unix.PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0)
	return err == nil
}

// createPosixTimers creates the timers with their ids, not armed. A new
// process has none. p has the numbers that the process sees itself.
func createPosixTimers(s *script, p *sdk.Process, timers []*taskpb.PosixTimer, withIDs bool) error {
	if len(timers) == 0 {
		return nil
	}
	if withIDs {
		s.do("mode of timer ids", unix.SYS_PRCTL, tape.Imm(unix.PR_TIMER_CREATE_RESTORE_IDS),
			tape.Imm(unix.PR_TIMER_CREATE_RESTORE_IDS_ON))
	}
	next := uint32(0)
	for _, t := range timers {
		if !withIDs {
			if err := countUp(s, next, t.GetId()); err != nil {
				return err
			}
			next = t.GetId() + 1
		}
		if err := createTimer(s, p, t); err != nil {
			return err
		}
	}
	if withIDs {
		s.do("mode of timer ids", unix.SYS_PRCTL, tape.Imm(unix.PR_TIMER_CREATE_RESTORE_IDS),
			tape.Imm(unix.PR_TIMER_CREATE_RESTORE_IDS_OFF))
	}
	return nil
}

// countUp creates and deletes timers until the next one gets the id wanted.
func countUp(s *script, next, want uint32) error {
	if want < next || want > maxTimerID {
		return fmt.Errorf("timer %d: this kernel creates timers in the order of their ids only: %w", want, sdk.ErrKernel)
	}
	id := s.Buffer(4)
	for ; next < want; next++ {
		s.do("timer before the next", unix.SYS_TIMER_CREATE, tape.Imm(unix.CLOCK_MONOTONIC), tape.Imm(0), id.Arg())
		s.do("end of timer before the next", unix.SYS_TIMER_DELETE, tape.Imm(next))
	}
	return nil
}

func createTimer(s *script, p *sdk.Process, t *taskpb.PosixTimer) error {
	le := binary.LittleEndian
	event := make([]byte, sigeventSize)
	le.PutUint64(event, t.GetValue())
	le.PutUint32(event[8:], t.GetSignal())
	le.PutUint32(event[12:], t.GetNotify())
	if t.GetNotify()&sigevThreadID != 0 {
		i := slices.IndexFunc(p.Threads, func(th sdk.Thread) bool { return uint32(th.ID) == t.GetThread() })
		if i < 0 {
			return fmt.Errorf("timer %d notifies thread %d, which process %d does not have: %w",
				t.GetId(), t.GetThread(), p.ID, sdk.ErrCorrupt)
		}
		le.PutUint32(event[16:], uint32(p.Threads[i].TID))
	}
	id := s.Bytes(le.AppendUint32(nil, t.GetId()))
	s.do(fmt.Sprintf("timer %d", t.GetId()), unix.SYS_TIMER_CREATE,
		tape.Imm(int64(t.GetClock())), s.Bytes(event).Arg(), id.Arg())
	s.check(func(o *tape.Outcome) error {
		b, err := returned(o, id)
		if err == nil && le.Uint32(b) != t.GetId() {
			err = fmt.Errorf("timer %d got the id %d: %w", t.GetId(), le.Uint32(b), sdk.ErrKernel)
		}
		return err
	})
	return nil
}

// armPosixTimers starts the timers with the time that remained.
func armPosixTimers(s *script, timers []*taskpb.PosixTimer) {
	for _, t := range timers {
		if t.GetRemainingNs() == 0 && t.GetIntervalNs() == 0 {
			continue
		}
		var spec []byte
		for _, ns := range []uint64{t.GetIntervalNs(), max(t.GetRemainingNs(), 1)} {
			spec = binary.LittleEndian.AppendUint64(spec, ns/1e9)
			spec = binary.LittleEndian.AppendUint64(spec, ns%1e9)
		}
		s.do(fmt.Sprintf("time of timer %d", t.GetId()), unix.SYS_TIMER_SETTIME,
			tape.Imm(t.GetId()), tape.Imm(0), s.Bytes(spec).Arg(), tape.Imm(0))
	}
}
