package task

import (
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// Codes of arch_prctl(2).
const (
	archGetCPUID = 0x1011
	archSetCPUID = 0x1012
)

// askCPUID asks whether the cpuid instruction faults.
func askCPUID(q *inquiry) {
	r := q.Try(unix.SYS_ARCH_PRCTL, tape.Imm(archGetCPUID))
	q.then(func(of *asked, o *tape.Outcome) error {
		v, err := o.Value(r)
		of.thread.CpuidFaults = err == nil && v == 0
		return nil
	})
}

// setCPUID makes the cpuid instruction fault.
func setCPUID(s *script, t *taskpb.Thread) {
	if t.GetCpuidFaults() {
		s.do("cpuid faults", unix.SYS_ARCH_PRCTL, tape.Imm(archSetCPUID), tape.Imm(0))
	}
}
