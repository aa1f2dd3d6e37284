package task

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// siginfoSize is the size of siginfo_t; it starts with si_signo.
const siginfoSize = 128

// pendingSignals makes the record of a queue. The kernel's set of pending
// signals may have signals that have no entry in the queue, when the limit of
// queued signals was reached: they are delivered with an empty siginfo
// (SI_USER of process 0), which is what is made up for them here.
func pendingSignals(queue [][]byte, set uint64) ([]*taskpb.QueuedSignal, error) {
	var signals []*taskpb.QueuedSignal
	for _, info := range queue {
		if len(info) != siginfoSize {
			return nil, fmt.Errorf("siginfo of %d bytes: %w", len(info), sdk.ErrCorrupt)
		}
		sig := binary.LittleEndian.Uint32(info)
		if sig < 1 || sig > nsig {
			return nil, fmt.Errorf("siginfo of signal %d: %w", sig, sdk.ErrCorrupt)
		}
		set &^= 1 << (sig - 1)
		if sig != uint32(unix.SIGKILL) {
			signals = append(signals, &taskpb.QueuedSignal{Signal: sig, Info: info})
		}
	}
	for sig := uint32(1); sig <= nsig; sig++ {
		if set&(1<<(sig-1)) != 0 && sig != uint32(unix.SIGKILL) {
			info := binary.LittleEndian.AppendUint32(make([]byte, 0, siginfoSize), sig)
			signals = append(signals, &taskpb.QueuedSignal{Signal: sig, Info: info[:siginfoSize]})
		}
	}
	return signals, nil
}

// queue says where signals are sent to: the numbers of the process and, unless
// it is the process's own queue, of the thread, as these see them themselves.
type queue struct{ tgid, tid int }

// sendPending queues the signals again, in their order. It must run in the
// task itself: nobody else may make up a siginfo of the kernel's. The signals
// are blocked until the registers are set, so that even ignored ones stay.
// SIGSTOP cannot be blocked and is sent when the task runs, by stopAgain.
func sendPending(s *script, to queue, signals []*taskpb.QueuedSignal) error {
	for _, sig := range signals {
		info, n := sig.GetInfo(), sig.GetSignal()
		if n < 1 || n > nsig || len(info) != siginfoSize || binary.LittleEndian.Uint32(info) != n {
			return fmt.Errorf("pending signal %d: %w", n, sdk.ErrCorrupt)
		}
		if fixedAction(int(n)) {
			continue
		}
		what, ref := fmt.Sprintf("pending signal %d", n), s.Bytes(info)
		if to.tid == 0 {
			s.do(what, unix.SYS_RT_SIGQUEUEINFO, tape.Imm(to.tgid), tape.Imm(n), ref.Arg())
		} else {
			s.do(what, unix.SYS_RT_TGSIGQUEUEINFO, tape.Imm(to.tgid), tape.Imm(to.tid), tape.Imm(n), ref.Arg())
		}
	}
	return nil
}

// stopsAgain tells whether a SIGSTOP was pending.
func stopsAgain(signals []*taskpb.QueuedSignal) bool {
	for _, sig := range signals {
		if sig.GetSignal() == uint32(unix.SIGSTOP) {
			return true
		}
	}
	return false
}
