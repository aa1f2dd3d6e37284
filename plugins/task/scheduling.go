package task

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/tape"
)

// Flags of sched_setattr(2) that x/sys does not have.
const (
	schedResetOnFork  = 0x1
	schedUtilClampMin = 0x20
	schedUtilClampMax = 0x40
)

// Scheduling policies (sched(7)).
const (
	schedOther    = 0
	schedFIFO     = 1
	schedRR       = 2
	schedBatch    = 3
	schedIdle     = 5
	schedDeadline = 6
)

// utilClampMax is the upper utilization clamp of who has none.
const utilClampMax = 1024

// fair tells whether the policy is one of the fair class, which has a nice
// value and, since Linux 6.12, a slice in the field of the runtime.
func fair(policy uint32) bool {
	return policy == schedOther || policy == schedBatch || policy == schedIdle
}

// machine is what records are compared with: the plugin's own attributes, which
// are the kernel's defaults, the CPUs and what they let threads decide.
type machine struct {
	slice       uint64
	nice        int32
	utilClamp   bool
	online      []byte
	speculation []specControl
}

// readMachine looks at the machine the plugin runs on.
func readMachine() (machine, error) {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return machine{}, fmt.Errorf("read own scheduling attributes: %w", err)
	}
	online, err := onlineCPUs()
	if err != nil {
		return machine{}, err
	}
	m := machine{utilClamp: attr.Util_max != 0, online: online, nice: attr.Nice,
		speculation: readSpeculation()}
	if fair(attr.Policy) {
		m.slice = attr.Runtime
	}
	return m, nil
}

// readScheduling reads when a thread runs, all from outside. The timer slack
// is the task's to tell.
func (m *machine) readScheduling(tid int) (*taskpb.Scheduling, error) {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return nil, fmt.Errorf("read scheduling attributes: %w", err)
	}
	affinity, err := kern.SchedGetaffinity(tid)
	if err != nil {
		return nil, fmt.Errorf("read CPU affinity: %w", err)
	}
	ioprio, err := kern.IoprioGet(tid)
	if err != nil {
		return nil, fmt.Errorf("read I/O priority: %w", err)
	}
	s := &taskpb.Scheduling{
		Policy: attr.Policy, Flags: attr.Flags, Nice: attr.Nice, Priority: attr.Priority,
		Runtime: attr.Runtime, Deadline: attr.Deadline, Period: attr.Period, Ioprio: uint32(ioprio),
	}
	if fair(s.Policy) && s.Runtime == m.slice {
		s.Runtime = 0
	}
	if m.utilClamp && (attr.Util_min != 0 || attr.Util_max != utilClampMax) {
		s.Flags |= schedUtilClampMin | schedUtilClampMax
		s.UtilMin, s.UtilMax = attr.Util_min, attr.Util_max
	}
	if !covers(affinity, m.online) {
		s.Affinity = bytes.TrimRight(affinity, "\x00")
	}
	return s, nil
}

// covers tells whether mask has every bit of set.
func covers(mask, set []byte) bool {
	for i, b := range set {
		if i >= len(mask) && b != 0 || i < len(mask) && b&^mask[i] != 0 {
			return false
		}
	}
	return true
}

// askTimerSlack asks for the slack of a thread's timers.
func askTimerSlack(q *inquiry) {
	q.prctl(unix.PR_GET_TIMERSLACK, nil, func(of *asked, v uint64) { of.thread.Scheduling.TimerSlackNs = v })
}

// setCPUs sets where a thread runs, and the slack of its timers, which the kernel
// ignores for real-time tasks: it comes before the policy.
func setCPUs(s *script, r *taskpb.Scheduling) {
	affinity := r.GetAffinity()
	affinity = affinity[:min(len(affinity), kern.MaxCPUs/8)]
	if len(affinity) == 0 {
		affinity = bytes.Repeat([]byte{0xff}, kern.MaxCPUs/8)
	}
	mask := make([]byte, (len(affinity)+7)&^7)
	copy(mask, affinity)
	s.do("CPU affinity", unix.SYS_SCHED_SETAFFINITY, tape.Imm(0), tape.Imm(len(mask)), s.Bytes(mask).Arg())
	if slack := r.GetTimerSlackNs(); slack != 0 {
		s.do("timer slack", unix.SYS_PRCTL, tape.Imm(unix.PR_SET_TIMERSLACK), tape.Imm(slack))
	}
}

// setPriorities sets when a thread runs. It raises what only rights can raise,
// so it comes before the limits and credentials.
func setPriorities(s *script, r *taskpb.Scheduling) {
	s.do("I/O priority", unix.SYS_IOPRIO_SET, tape.Imm(kern.IoprioWhoProcess), tape.Imm(0), tape.Imm(r.GetIoprio()))
	s.do("scheduling policy", unix.SYS_SCHED_SETATTR, tape.Imm(0), s.Bytes(encodeSchedAttr(r)).Arg(), tape.Imm(0))
}

// schedAttr is what sched_setattr(2) wants.
func schedAttr(r *taskpb.Scheduling) *unix.SchedAttr {
	return &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: r.GetPolicy(), Flags: r.GetFlags(), Nice: r.GetNice(), Priority: r.GetPriority(),
		Runtime: r.GetRuntime(), Deadline: r.GetDeadline(), Period: r.GetPeriod(), Util_min: r.GetUtilMin(), Util_max: r.GetUtilMax(),
	}
}

// encodeSchedAttr makes struct sched_attr, which has no padding.
func encodeSchedAttr(r *taskpb.Scheduling) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, schedAttr(r))
	if err != nil {
		panic(err) // all fields are numbers
	}
	return b
}
