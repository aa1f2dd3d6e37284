package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// freezeOptions are the ptrace options of a task of a tree.
const freezeOptions = optTraceSysGood | optTraceFork | optTraceVfork | optTraceClone

// freezeTime bounds a freeze when the context does not.
const freezeTime = 10 * time.Second

// Thread is one stopped task.
type Thread struct {
	TID HostPID
	// Regs as at the stop: of an interrupted system call the kernel's restart
	// codes are still in place.
	Regs arch.Regs
	// XState is the extended state as the kernel gives it.
	XState []byte
	// SigMask is the set of blocked signals.
	SigMask uint64
	// DebugRegs are watchpoints that a debugger has left (arch.GetDebugRegs).
	DebugRegs []uint64
	// Dispatches is set if the thread handles its system calls itself (syscall
	// user dispatch): injected calls would go astray.
	Dispatches bool

	// traced says that the following were read.
	traced  bool
	rseq    *sdk.Rseq
	filters []sdk.SeccompFilter
}

// Frozen is a tree whose every thread is stopped and traced.
type Frozen struct {
	// Processes has every parent before its children.
	Processes []*Process

	tracer *Tracer
	engine *Engine
	// regions by process, made when the first tape needs one.
	regions map[HostPID]*region
	// groups are frozen again when the tasks are let go.
	groups *Groups
	done   bool
	// snapshots are processes that are to be ended.
	snapshots []HostPID
	// init is [Roots.Init], which ends with the tree; nil without one.
	init *Process
}

// Freeze stops a whole tree. When it fails, everything that was stopped runs
// again. groups are control groups that keep the tree from running; nil if there
// are none.
func Freeze(ctx context.Context, t *Tracer, roots Roots, groups *Groups) (*Frozen, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, freezeTime,
		fmt.Errorf("a task did not stop within %v: %w", freezeTime, sdk.ErrTimeout))
	defer cancel()
	f := &freezer{ctx: ctx, tasks: map[HostPID]*tracee{}}
	frozen := &Frozen{tracer: t, engine: NewEngine(t), regions: map[HostPID]*region{}, groups: groups}
	err := t.Do(func() error {
		if err := f.stopAll(roots); err != nil {
			return errors.Join(err, f.undo())
		}
		procs, err := f.read(roots)
		if err == nil && roots.Init != 0 {
			frozen.init, err = readProcess(roots.Init)
		}
		if err == nil {
			err = groups.thaw()
		}
		if err != nil {
			return errors.Join(err, groups.freeze(), f.undo())
		}
		frozen.Processes = procs
		return nil
	})
	if err != nil {
		return nil, err
	}
	return frozen, nil
}

// tracee is a task that was seized.
type tracee struct {
	stopped bool
	last    stop
}

// freezer stops tasks until there is none left that runs.
type freezer struct {
	ctx   context.Context
	tasks map[HostPID]*tracee
	// first and members are what the last look has found, at which nothing was
	// new.
	first   []HostPID
	members map[HostPID]members
}

// stopAll seizes and interrupts everything it finds before it waits for
// anything, and looks again until nothing is new: a task that was found late
// was created by one that was not stopped yet.
func (f *freezer) stopAll(roots Roots) error {
	for {
		found, err := f.seizeNew(roots)
		if err != nil {
			return err
		}
		waited, err := f.waitAll()
		if err != nil {
			return err
		}
		if !found && !waited {
			break
		}
	}
	if len(f.tasks) == 0 {
		return fmt.Errorf("process %d: %w", roots.Root, sdk.ErrTaskGone)
	}
	return nil
}

func (f *freezer) seizeNew(roots Roots) (bool, error) {
	found := false
	first, err := roots.list()
	if err != nil {
		return false, err
	}
	f.first, f.members = first, map[HostPID]members{}
	for queue := first; len(queue) > 0; queue = queue[1:] {
		pid := queue[0]
		if _, seen := f.members[pid]; seen {
			continue
		}
		tids, err := threadsOf(pid)
		if isGone(err) {
			continue
		}
		if err != nil {
			return found, err
		}
		for _, tid := range tids {
			isNew, err := f.seizeOne(tid)
			if err != nil {
				return found, err
			}
			found = found || isNew
		}
		kids, err := childrenOf(pid, tids)
		if err != nil {
			return found, err
		}
		f.members[pid] = members{tids, kids}
		queue = append(queue, kids...)
	}
	return found, nil
}

// seizeOne attaches to a task unless it is attached already or is a zombie.
func (f *freezer) seizeOne(tid HostPID) (bool, error) {
	if f.tasks[tid] != nil {
		return false, nil
	}
	if err := f.ctx.Err(); err != nil {
		return false, context.Cause(f.ctx)
	}
	err := seize(tid, freezeOptions)
	switch {
	case err == nil:
	case errors.Is(err, unix.EPERM):
		return f.seizeDenied(tid, err)
	case errors.Is(err, sdk.ErrTaskGone):
		return false, nil
	default:
		return false, fmt.Errorf("seize task %d: %w", tid, err)
	}
	f.tasks[tid] = &tracee{}
	if err := interrupt(tid); err != nil && !errors.Is(err, sdk.ErrTaskGone) {
		return false, fmt.Errorf("interrupt task %d: %w", tid, err)
	}
	return true, nil
}

// seizeDenied tells apart the reasons for EPERM: a task that came attached
// because its creator was traced, a zombie, another tracer, a missing right.
func (f *freezer) seizeDenied(tid HostPID, cause error) (bool, error) {
	st, err := procfs.Status(int(tid))
	if isGone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch {
	case st.State == 'Z' || st.State == 'X':
		return false, nil
	case st.TracerPid == unix.Gettid() || f.isOurs(st.TracerPid):
		f.tasks[tid] = &tracee{}
		return true, nil
	case st.TracerPid != 0:
		return false, fmt.Errorf("task %d is traced by process %d: end that debugger first: %w", tid, st.TracerPid, sdk.ErrUnsupported)
	}
	return false, fmt.Errorf("seize task %d: CAP_SYS_PTRACE needed: %w: %w", tid, cause, sdk.ErrNotPermitted)
}

// isOurs: TracerPid shows the tracing thread's id in some kernels and its
// process's in others.
func (f *freezer) isOurs(pid int) bool { return pid == unix.Getpid() }

// waitAll waits for every task that is not stopped yet and tells whether there
// was any.
func (f *freezer) waitAll() (bool, error) {
	waited := false
	for {
		var pending []HostPID
		for tid, t := range f.tasks {
			if !t.stopped {
				pending = append(pending, tid)
			}
		}
		if len(pending) == 0 {
			return waited, nil
		}
		waited = true
		for _, tid := range pending {
			if err := f.waitOne(tid); err != nil {
				return waited, err
			}
		}
	}
}

func (f *freezer) waitOne(tid HostPID) error {
	for {
		s, err := f.waitOrGone(tid)
		if errors.Is(err, sdk.ErrTaskGone) {
			delete(f.tasks, tid)
			return nil
		}
		if err != nil {
			return f.stuck(tid, err)
		}
		var deliver unix.Signal
		switch {
		case s.ended():
			delete(f.tasks, tid)
			return nil
		case s.isEventStop():
			f.tasks[tid].stopped, f.tasks[tid].last = true, s
			return nil
		case s.isNewTask():
			if err := f.adopt(tid); err != nil {
				return err
			}
		case s.isSignal(): // it gets it, and stops right after
			deliver = s.signal()
		}
		// Any stop uses up an interrupt that came before it (ptrace_stop in
		// kernel/signal.c).
		if err = interrupt(tid); err == nil {
			err = cont(tid, deliver)
		}
		if err != nil && !errors.Is(err, sdk.ErrTaskGone) {
			return fmt.Errorf("continue task %d: %w", tid, err)
		}
	}
}

// waitOrGone waits in slices: a main thread that exits while other threads
// live becomes a zombie that wait4 does not report until they are gone.
func (f *freezer) waitOrGone(tid HostPID) (stop, error) {
	for {
		ctx, cancel := context.WithTimeout(f.ctx, 50*time.Millisecond)
		s, err := waitStop(ctx, tid)
		cancel()
		if err == nil || errors.Is(err, sdk.ErrTaskGone) {
			return s, err
		}
		if f.ctx.Err() != nil {
			return s, context.Cause(f.ctx)
		}
		if st, serr := procfs.Stat(int(tid)); isGone(serr) || serr == nil && (st.State == 'Z' || st.State == 'X') {
			return s, sdk.ErrTaskGone
		}
	}
}

// adopt takes note of a task that was created while its creator was traced: it
// is attached, and stops by itself.
func (f *freezer) adopt(parent HostPID) error {
	msg, err := eventMessage(parent)
	if errors.Is(err, sdk.ErrTaskGone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("new task of %d: %w", parent, err)
	}
	if child := HostPID(msg); f.tasks[child] == nil {
		f.tasks[child] = &tracee{}
	}
	return nil
}

// stuck explains why a task did not stop.
func (f *freezer) stuck(tid HostPID, err error) error {
	st, serr := procfs.Stat(int(tid))
	if serr == nil && st.State == 'D' {
		return fmt.Errorf("task %d (%s) is in an uninterruptible sleep (a vfork parent, or waiting for a device): %w", tid, st.Comm, err)
	}
	return fmt.Errorf("stop task %d: %w", tid, err)
}

// undo lets go of everything after a freeze that failed.
func (f *freezer) undo() error {
	// Nobody who stands still waits for those that do not: the first look at each
	// does not wait.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), freezeTime)
	defer cancel()
	now, over := context.WithCancel(ctx)
	over()
	done := map[HostPID]bool{}
	_ = f.letGoAll(now, done) // what is not done is tried again
	return f.letGoAll(ctx, done)
}

// letGoAll detaches the tasks that are not done, each as soon as it has stopped,
// and those that they create meanwhile.
func (f *freezer) letGoAll(ctx context.Context, done map[HostPID]bool) error {
	f.ctx = ctx
	var errs []error
	tried := map[HostPID]bool{}
	for {
		var tids []HostPID
		for tid := range f.tasks {
			if !done[tid] && !tried[tid] {
				tids = append(tids, tid)
			}
		}
		if len(tids) == 0 {
			return errors.Join(errs...)
		}
		for _, tid := range tids {
			tried[tid] = true
			if t := f.tasks[tid]; t != nil && !t.stopped {
				if err := f.waitOne(tid); err != nil {
					errs = append(errs, err)
					continue
				}
			}
			done[tid] = true
			if f.tasks[tid] == nil {
				continue // it has ended
			}
			if err := detach(tid, 0); err != nil && !errors.Is(err, sdk.ErrTaskGone) {
				errs = append(errs, fmt.Errorf("detach task %d: %w", tid, err))
			}
		}
	}
}
