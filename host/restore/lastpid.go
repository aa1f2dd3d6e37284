package restore

import (
	"fmt"
	"strconv"

	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// lastPID is what a PID namespace counts from. It is that of the namespace of who
// writes, not of who mounted /proc (pid_ns_ctl_handler in kernel/pid_namespace.c).
const lastPID = "/proc/sys/kernel/ns_last_pid"

// mostTries is how often a number is tried for which others are faster.
const mostTries = 500

// cloneNext creates a thread in a process that has no right any more to say which
// number it shall have (clone3(2), set_tid): the counter says it to the kernel
// before, which gives the next number. On a busy machine somebody else may get
// that; then the thread ends and it is tried again.
func (r *flow) cloneNext(o *task.Ops, c *task.Clone) (task.HostPID, error) {
	if len(c.IDs) != 1 {
		return 0, fmt.Errorf("thread %v: in a user namespace it cannot have more than one number: %w", c.IDs, sdk.ErrUnsupported)
	}
	want := int(c.IDs[0])
	free := *c
	free.IDs = nil
	for range mostTries {
		if err := r.countFrom(o, want-1); err != nil {
			return 0, fmt.Errorf("write %s: %w", lastPID, err)
		}
		tid, err := o.Clone(&free)
		if err != nil {
			return tid, err
		}
		got, err := innerNumber(tid)
		if err != nil || got == want {
			return tid, err
		}
		if err := o.EndThread(tid, c.Gadget); err != nil {
			return tid, err
		}
	}
	return 0, fmt.Errorf("create task %d: its number was taken by others each of %d times: %w", want, mostTries, sdk.ErrInUse)
}

// innerNumber is the number that a task has in its own PID namespace.
func innerNumber(tid task.HostPID) (int, error) {
	status, err := procfs.Status(int(tid))
	if err != nil {
		return 0, err
	}
	if n := len(status.NSpid); n > 0 {
		return status.NSpid[n-1], nil
	}
	return int(tid), nil
}

// countFrom has the counter make the kernel's next number in the tree's PID
// namespace be the one after last.
func (r *flow) countFrom(o *task.Ops, last int) error {
	return r.counter().write(o, lastPID, []byte(strconv.Itoa(last)))
}
