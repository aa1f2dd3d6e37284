package task

import (
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// Bits of the answer to PR_GET_SPECULATION_CTRL.
const (
	specPrctl = 1                  // the thread decides for itself
	specOff   = 1<<2 | 1<<3 | 1<<4 // DISABLE, FORCE_DISABLE, DISABLE_NOEXEC
)

// specControl is one misfeature that a thread may have switched.
type specControl struct{ which, changed uint32 }

// specControls are PR_SPEC_STORE_BYPASS, PR_SPEC_INDIRECT_BRANCH and
// PR_SPEC_L1D_FLUSH. The last is off by default and has its own meaning of
// "enabled", so it is carried when it is on.
var specControls = []specControl{{0, specOff}, {1, specOff}, {2, 1 << 1}}

// readSpeculation finds the controls that threads of this machine have.
func readSpeculation() (controls []specControl) {
	for _, c := range specControls {
		own, err := unix.PrctlRetInt(unix.PR_GET_SPECULATION_CTRL, uintptr(c.which), 0, 0, 0)
		if err == nil && own&specPrctl != 0 {
			controls = append(controls, c)
		}
	}
	return controls
}

// askSpeculation asks which controls a thread has changed.
func askSpeculation(q *inquiry, m *machine) {
	for _, c := range m.speculation {
		q.prctl(unix.PR_GET_SPECULATION_CTRL, []tape.Arg{tape.Imm(c.which)}, func(of *asked, v uint64) {
			if control := uint32(v); control&specPrctl != 0 && control&c.changed != 0 {
				of.thread.Speculation = append(of.thread.Speculation, &taskpb.Speculation{Which: c.which, Control: control &^ specPrctl})
			}
		})
	}
}

// setSpeculation switches them again.
func setSpeculation(s *script, t *taskpb.Thread) {
	for _, c := range t.GetSpeculation() {
		prctl(s, "speculation control", unix.PR_SET_SPECULATION_CTRL, tape.Imm(c.GetWhich()), tape.Imm(c.GetControl()))
	}
}
