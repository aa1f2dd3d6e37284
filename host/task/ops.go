package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Ops are requests for stopped tasks that a restore has created. They have no
// way back: a task that they are used on dies with the host (EXITKILL). They
// are valid only inside the function that [Tracer.With] runs.
type Ops struct {
	ctx context.Context
}

// opsOptions are the ptrace options of a task that a restore created.
const opsOptions = optTraceSysGood | optExitKill

// With runs fn on the tracing thread.
func (t *Tracer) With(ctx context.Context, fn func(*Ops) error) error {
	return t.Do(func() error { return fn(&Ops{ctx}) })
}

// Seize attaches to a task, so that it is killed when the host ends, and stops
// it. The tasks that it creates are attached in the same way. What seccomp
// filters they are given are not asked about them until they are let go, if the
// host may have that: where it may not, no filter can be restored.
func (o *Ops) Seize(tid HostPID) error {
	if err := suspended(opsOptions, func(opts uintptr) error { return seize(tid, opts) }); err != nil {
		return fmt.Errorf("seize task %d: %w", tid, err)
	}
	if err := interrupt(tid); err != nil {
		return fmt.Errorf("interrupt task %d: %w", tid, err)
	}
	return o.AwaitStop(tid)
}

// suspended sets ptrace options with PTRACE_O_SUSPEND_SECCOMP, or without where
// the host may not have that.
func suspended(opts uintptr, set func(opts uintptr) error) error {
	err := set(opts | optSuspendSeccomp)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		err = set(opts)
	}
	return err
}

// AwaitStop waits for the event stop of a task.
func (o *Ops) AwaitStop(tid HostPID) error {
	for {
		s, err := waitStop(o.ctx, tid)
		switch {
		case err != nil:
			return err
		case s.ended():
			return fmt.Errorf("task %d: %w", tid, errGone)
		case s.isEventStop():
			return nil
		}
		if err := cont(tid, 0); err != nil {
			return fmt.Errorf("continue task %d: %w", tid, err)
		}
	}
}

// Syscall has a stopped task execute one system call with the instruction at
// gadget. Registers but the result are put back.
func (o *Ops) Syscall(tid HostPID, gadget uint64, nr int, args ...uint64) (uint64, error) {
	got, _, err := o.execute(tid, gadget, nr, args...)
	return got, err
}

// execute is Syscall that returns the task, too, which the call has created, if
// that is traced.
func (o *Ops) execute(tid HostPID, gadget uint64, nr int, args ...uint64) (got uint64, born HostPID, err error) {
	regs, err := arch.GetRegs(int(tid))
	if err != nil {
		return 0, 0, err
	}
	call := regs
	var six [6]uint64
	copy(six[:], args)
	call.SetCall(gadget, nr, six)
	if err := arch.SetRegs(int(tid), &call); err != nil {
		return 0, 0, err
	}
	t := &target{tid: tid}
	if err := t.stepThrough(o.ctx); err != nil {
		return 0, t.born, err
	}
	if call, err = arch.GetRegs(int(tid)); err != nil {
		return 0, t.born, err
	}
	if err := arch.SetRegs(int(tid), &regs); err != nil {
		return 0, t.born, err
	}
	if r := call.Result(); r < 0 && r >= -4095 {
		return 0, 0, unix.Errno(-r)
	}
	return uint64(call.Result()), t.born, nil
}

// atCall makes a system call the next thing that a stopped task does. Its registers
// are not put back.
func atCall(tid HostPID, gadget uint64, nr int, args [6]uint64) error {
	regs, err := arch.GetRegs(int(tid))
	if err != nil {
		return err
	}
	regs.SetCall(gadget, nr, args)
	return arch.SetRegs(int(tid), &regs)
}

// Call is a system call for one stopped task.
type Call struct {
	TID    HostPID
	Gadget uint64
	Nr     int
	Args   [6]uint64
}

// SyscallAll has tasks execute one call each, all at the same time, and ignores
// what the calls return but for errors. Registers are not put back.
func (o *Ops) SyscallAll(calls []Call) error {
	steps := make([]stepping, len(calls))
	for i, c := range calls {
		if err := atCall(c.TID, c.Gadget, c.Nr, c.Args); err != nil {
			return err
		}
		steps[i].t = &target{tid: c.TID}
		if err := steps[i].begin(); err != nil {
			return err
		}
	}
	for stop := 1; stop <= atExit; stop++ {
		for i := range steps {
			if err := steps[i].reach(o.ctx, stop); err != nil {
				return fmt.Errorf("task %d: %w", calls[i].TID, err)
			}
		}
	}
	for _, c := range calls {
		regs, err := arch.GetRegs(int(c.TID))
		if err != nil {
			return err
		}
		if r := regs.Result(); r < 0 && r >= -4095 {
			return fmt.Errorf("task %d: %w", c.TID, unix.Errno(-r))
		}
	}
	return nil
}

// Context is everything of a thread that only its tracer can set.
type Context struct {
	Regs      arch.Regs
	XState    []byte
	SigMask   uint64
	DebugRegs []uint64
}

// Context reads the context of a stopped thread.
func (o *Ops) Context(tid HostPID) (Context, error) {
	th := &Thread{TID: tid}
	err := readThread(th)
	return Context{Regs: th.Regs, XState: th.XState, SigMask: th.SigMask, DebugRegs: th.DebugRegs}, err
}

// SetContext writes the context of a stopped thread.
func (o *Ops) SetContext(tid HostPID, c *Context) error {
	if err := arch.SetXState(int(tid), c.XState); err != nil {
		return fmt.Errorf("task %d: set extended state: %w", tid, err)
	}
	if err := setSignalMask(tid, c.SigMask); err != nil {
		return fmt.Errorf("task %d: set signal mask: %w", tid, err)
	}
	if err := arch.SetDebugRegs(int(tid), c.DebugRegs); err != nil {
		return fmt.Errorf("task %d: %w", tid, err)
	}
	if err := arch.SetRegs(int(tid), &c.Regs); err != nil {
		return fmt.Errorf("task %d: set registers: %w", tid, err)
	}
	return nil
}

// Write writes to memory of a stopped task.
func (o *Ops) Write(tid HostPID, addr uint64, b []byte) error { return writeMem(tid, addr, b) }

// StartInit lets a clone of the seed go as the first process of its PID
// namespace: from pc, which is [Seed.Init], with the stack pointer sp, at which
// a struct pollfd lies.
func (o *Ops) StartInit(pid HostPID, pc, sp uint64) error {
	regs, err := arch.GetRegs(int(pid))
	if err != nil {
		return err
	}
	regs.SetPC(pc)
	regs.SetSP(sp)
	if err := arch.SetRegs(int(pid), &regs); err != nil {
		return err
	}
	// Signals that are not blocked are ignored by an init (signal(7)).
	if err := setSignalMask(pid, 0); err != nil {
		return err
	}
	return o.Detach(pid)
}

// BlockSignals blocks all signals of a stopped thread.
func (o *Ops) BlockSignals(tid HostPID) error { return setSignalMask(tid, allSignals) }

// Detach lets a stopped task go.
func (o *Ops) Detach(tid HostPID) error { return detach(tid, 0) }

// Kill ends a traced process and reaps the given threads of it, the main
// thread last.
func (o *Ops) Kill(pid HostPID, tids []HostPID) error {
	if err := ignoreGone(unix.Kill(int(pid), unix.SIGKILL)); err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for i := len(tids) - 1; i >= 0; i-- {
		if err := reap(o.ctx, tids[i]); err != nil {
			return err
		}
	}
	return nil
}

// ExitThread has a stopped main thread, whose signals are blocked, end by
// exit(2) while others of its process stay, and waits until it is a zombie. It
// lets go of it before: a tracer cannot let go of a zombie, and would kill the
// process when it ends itself (EXITKILL).
func (o *Ops) ExitThread(tid HostPID, gadget uint64, status int) error {
	if err := atCall(tid, gadget, unix.SYS_EXIT, [6]uint64{uint64(status)}); err != nil {
		return err
	}
	if err := detach(tid, 0); err != nil {
		return err
	}
	for {
		st, err := procfs.ThreadStat(int(tid), int(tid))
		if err != nil || st.State == 'Z' {
			return err
		}
		if o.ctx.Err() != nil {
			return context.Cause(o.ctx)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// EndThread has a stopped thread that is not the main one end by exit(2), and
// reaps it.
func (o *Ops) EndThread(tid HostPID, gadget uint64) error {
	if err := atCall(tid, gadget, unix.SYS_EXIT, [6]uint64{}); err != nil {
		return err
	}
	if err := cont(tid, 0); err != nil {
		return err
	}
	return reap(o.ctx, tid)
}

// Exit ends a stopped process so that it leaves the wait status: by
// exit_group(2), or by the signal that had killed it. It stays a zombie until
// its parent reaps it.
func (o *Ops) Exit(pid HostPID, gadget uint64, status unix.WaitStatus) error {
	regs, err := arch.GetRegs(int(pid))
	if err != nil {
		return err
	}
	if !status.Signaled() {
		regs.SetCall(gadget, unix.SYS_EXIT_GROUP, [6]uint64{uint64(status.ExitStatus())})
		if err := arch.SetRegs(int(pid), &regs); err != nil {
			return err
		}
		if err := cont(pid, 0); err != nil {
			return err
		}
		return reap(o.ctx, pid)
	}
	// No core file, whatever the signal.
	if err := unix.Prlimit(int(pid), unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		return err
	}
	sig := status.Signal()
	if err := setSignalMask(pid, ^(uint64(1) << (sig - 1))); err != nil {
		return err
	}
	if err := unix.Kill(int(pid), sig); err != nil {
		return err
	}
	// SIGKILL does not wait for us.
	if err := ignoreGone(cont(pid, 0)); err != nil {
		return err
	}
	for {
		s, err := waitStop(o.ctx, pid)
		if err != nil || s.ended() {
			return ignoreGone(err)
		}
		deliver := unix.Signal(0)
		if s.isSignal() {
			deliver = s.signal()
		}
		if err := cont(pid, deliver); err != nil {
			return ignoreGone(err)
		}
	}
}
