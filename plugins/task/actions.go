package task

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// nsig is the number of signals, sigsetSize the size of the kernel's set.
const (
	nsig       = 64
	sigsetSize = 8
)

// sigactionSize is the size of the kernel's struct sigaction, which is not the
// one of the C library:
//
//	0 handler   8 flags   16 restorer   24 mask
const sigactionSize = 32

// fixedAction tells whether the signal has no action that could be set.
func fixedAction(sig int) bool {
	return sig == int(unix.SIGKILL) || sig == int(unix.SIGSTOP)
}

// askActions asks the signal actions of a process.
func askActions(q *inquiry) {
	for sig := 1; sig <= nsig; sig++ {
		if fixedAction(sig) {
			continue
		}
		ref := q.Buffer(sigactionSize)
		q.Call(unix.SYS_RT_SIGACTION, tape.Imm(sig), tape.Imm(0), ref.Arg(), tape.Imm(sigsetSize))
		q.then(func(of *asked, o *tape.Outcome) error {
			b, err := returned(o, ref)
			if err != nil {
				return err
			}
			if a := decodeAction(sig, b); a.Handler|a.Flags|a.Mask != 0 {
				of.process.Actions = append(of.process.Actions, a)
			}
			return nil
		})
	}
}

func decodeAction(sig int, b []byte) *taskpb.SignalAction {
	le := binary.LittleEndian
	return &taskpb.SignalAction{Signal: uint32(sig), Handler: le.Uint64(b),
		Flags: le.Uint64(b[8:]), Restorer: le.Uint64(b[16:]), Mask: le.Uint64(b[24:])}
}

func encodeAction(a *taskpb.SignalAction) []byte {
	b := make([]byte, 0, sigactionSize)
	for _, v := range []uint64{a.GetHandler(), a.GetFlags(), a.GetRestorer(), a.GetMask()} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// setActions sets the actions of all signals; those that the record does not
// have to their default, for the seed may have inherited ignored signals.
func setActions(s *script, p *taskpb.Process) error {
	var actions [nsig + 1]*taskpb.SignalAction
	for _, a := range p.GetActions() {
		sig := int(a.GetSignal())
		if sig < 1 || sig > nsig || fixedAction(sig) {
			return fmt.Errorf("action of signal %d: %w", sig, sdk.ErrCorrupt)
		}
		actions[sig] = a
	}
	for sig := 1; sig <= nsig; sig++ {
		if !fixedAction(sig) {
			s.do(fmt.Sprintf("action of signal %d", sig), unix.SYS_RT_SIGACTION,
				tape.Imm(sig), s.Bytes(encodeAction(actions[sig])).Arg(), tape.Imm(0), tape.Imm(sigsetSize))
		}
	}
	return nil
}
