package task

import (
	"slices"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// readOwnNumbers finds out by which numbers the processes and threads know
// themselves: a tree may have a PID namespace of its own, and what a task
// passes to the kernel is looked up there. It reads only what is wanted.
func readOwnNumbers(saved []*savedProcess) error {
	for _, p := range saved {
		if !p.refersToItself() {
			continue
		}
		var err error
		if p.own, err = ownNumbers(p.proc); err != nil {
			return err
		}
	}
	return nil
}

// ownNumbers are a process and its threads with the numbers by which they know
// themselves.
func ownNumbers(p *sdk.Process) (*sdk.Process, error) {
	own := *p
	own.Threads = slices.Clone(own.Threads)
	for i := range own.Threads {
		status, err := procfs.Status(own.Threads[i].TID)
		if err != nil {
			return nil, err
		}
		own.Threads[i].TID = status.OwnPid()
		own.PID = status.OwnTgid()
	}
	return &own, nil
}

// refersToItself tells whether something of the process is restored with its
// own numbers: signals that it sends to itself, timers that notify a thread.
func (p *savedProcess) refersToItself() bool {
	return len(p.rec.GetPending()) > 0 ||
		slices.ContainsFunc(p.threads, func(t savedThread) bool { return len(t.rec.GetPending()) > 0 }) ||
		slices.ContainsFunc(p.rec.GetPosixTimers(), func(t *taskpb.PosixTimer) bool { return t.GetNotify()&sigevThreadID != 0 })
}

// ownTID is the number by which a thread knows itself.
func (p *savedProcess) ownTID(id sdk.TaskID) int {
	i := slices.IndexFunc(p.own.Threads, func(t sdk.Thread) bool { return t.ID == id })
	if i < 0 {
		return 0
	}
	return p.own.Threads[i].TID
}
