package task

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
)

// filterActions are the SECCOMP_RET_ actions that harm nobody when the host
// dies in the middle of a tape: the filter is in force at once then, and asked
// about the rest of the tape, which goes on whatever its calls return.
var filterActions = map[uint32]bool{
	unix.SECCOMP_RET_ALLOW: true, unix.SECCOMP_RET_LOG: true,
	unix.SECCOMP_RET_ERRNO: true, unix.SECCOMP_RET_TRACE: true,
}

// seccompMode refuses a mode that nobody knows: that of a task which a filter
// is about to end.
func (x *examination) seccompMode(i, mode int) {
	switch mode {
	case unix.SECCOMP_MODE_DISABLED, unix.SECCOMP_MODE_STRICT, unix.SECCOMP_MODE_FILTER:
	default:
		x.block(i, "seccomp", fmt.Sprintf("mode %d cannot be carried", mode), "")
	}
}

// seccomp examines the filters of thread i, which only the tracer sees.
func (x *examination) seccomp(i int, filters []sdk.SeccompFilter) {
	ends := x.status[i] != nil && x.status[i].Seccomp == unix.SECCOMP_MODE_STRICT
	for n, f := range filters {
		all := filterVerdicts(f.Program, nil)
		subject := fmt.Sprintf("seccomp filter %d", n)
		switch {
		case f.Flags&^unix.SECCOMP_FILTER_FLAG_LOG != 0:
			x.block(i, subject, fmt.Sprintf("flags %#x cannot be carried", f.Flags), "")
		case all.has(unix.SECCOMP_RET_USER_NOTIF):
			x.block(i, subject, "a listener decides (SECCOMP_RET_USER_NOTIF), which cannot be carried", "")
		case all.any:
			x.block(i, subject, "computes its answers, so that a listener may be asked (SECCOMP_RET_USER_NOTIF)", "")
		}
		ends = ends || mayEnd(f.Program)
	}
	if ends {
		x.note(i, "seccomp", "ends the task for calls that are not allowed: should firn be killed while the tree is frozen, that may end it, too")
	}
}

// mayEnd tells whether a task under the filter may be ended by the rest of a
// tape, or never get to its end: rt_sigreturn(2) must be allowed.
func mayEnd(program []byte) bool {
	native := filterVerdicts(program, map[uint32]uint32{dataArch: auditArch})
	for v := range native.set {
		if !filterActions[v&unix.SECCOMP_RET_ACTION_FULL] {
			return true
		}
	}
	back := filterVerdicts(program, map[uint32]uint32{dataArch: auditArch, dataNr: unix.SYS_RT_SIGRETURN})
	return native.any || back.any || back.has(unix.SECCOMP_RET_ERRNO) || back.has(unix.SECCOMP_RET_TRACE)
}

// has tells whether an action is among the verdicts.
func (v *verdicts) has(action uint32) bool {
	for value := range v.set {
		if value&unix.SECCOMP_RET_ACTION_FULL == action {
			return true
		}
	}
	return false
}

// checkSeccomp tells what of a thread's seccomp state cannot be as it was.
func (c *imageCheck) checkSeccomp(t *savedThread) {
	s := t.rec.GetSeccomp()
	if s == nil {
		if c.seccomp != unix.SECCOMP_MODE_DISABLED {
			c.find(sdk.LevelNote, t.ID, "seccomp", "will be under the filters that the restorer is under", "")
		}
		return
	}
	// The host suspends it, which needs this; and so do filters without no_new_privs.
	c.need(t.ID, unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "seccomp", modeName(s))
	if c.seccomp != unix.SECCOMP_MODE_DISABLED {
		c.find(sdk.LevelBlock, t.ID, "seccomp", "the restorer is under seccomp itself", "run firn outside of it")
	}
}

func modeName(s *taskpb.Seccomp) string {
	if s.GetMode() == unix.SECCOMP_MODE_STRICT {
		return "strict mode"
	}
	return "a filter"
}
