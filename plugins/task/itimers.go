package task

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// itimervalSize is the size of struct itimerval: interval, then value, each
// seconds and microseconds of 8 bytes.
const itimervalSize = 32

// intervalTimers are the names of the timers of setitimer(2) by number.
var intervalTimers = []string{"ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"}

// askIntervalTimers asks for the timers of setitimer(2).
func askIntervalTimers(q *inquiry) {
	for which := range intervalTimers {
		ref := q.Buffer(itimervalSize)
		q.Call(unix.SYS_GETITIMER, tape.Imm(which), ref.Arg())
		q.then(func(of *asked, o *tape.Outcome) error {
			b, err := returned(o, ref)
			if err != nil {
				return err
			}
			if t := decodeIntervalTimer(which, b); t != nil {
				of.process.IntervalTimers = append(of.process.IntervalTimers, t)
			}
			return nil
		})
	}
}

// decodeIntervalTimer returns nil for a timer that is not armed. A periodic
// ITIMER_REAL whose signal is pending has nothing remaining: the kernel starts
// it again when the signal is delivered. One microsecond has the same effect,
// for the signal is pending after the restore as well.
func decodeIntervalTimer(which int, b []byte) *taskpb.IntervalTimer {
	le := binary.LittleEndian
	interval := le.Uint64(b)*1e6 + le.Uint64(b[8:])
	remaining := le.Uint64(b[16:])*1e6 + le.Uint64(b[24:])
	if interval == 0 && remaining == 0 {
		return nil
	}
	return &taskpb.IntervalTimer{Which: uint32(which), RemainingUs: max(remaining, 1), IntervalUs: interval}
}

func encodeIntervalTimer(t *taskpb.IntervalTimer) []byte {
	b := make([]byte, 0, itimervalSize)
	for _, us := range []uint64{t.GetIntervalUs(), t.GetRemainingUs()} {
		b = binary.LittleEndian.AppendUint64(b, us/1e6)
		b = binary.LittleEndian.AppendUint64(b, us%1e6)
	}
	return b
}

// armIntervalTimers starts the timers with the time that remained.
func armIntervalTimers(s *script, timers []*taskpb.IntervalTimer) error {
	for _, t := range timers {
		if int(t.GetWhich()) >= len(intervalTimers) {
			return fmt.Errorf("interval timer %d: %w", t.GetWhich(), sdk.ErrCorrupt)
		}
		s.do(intervalTimers[t.GetWhich()], unix.SYS_SETITIMER, tape.Imm(t.GetWhich()),
			s.Bytes(encodeIntervalTimer(t)).Arg(), tape.Imm(0))
	}
	return nil
}
