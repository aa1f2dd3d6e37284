package restore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// closeService closes the service descriptors in every process.
func (r *flow) closeService(ctx context.Context) error {
	t := &tape.Tape{}
	t.Call(unix.SYS_CLOSE_RANGE, tape.Imm(r.service.base), tape.Imm(^uint32(0)), tape.Imm(0))
	var runs []tape.Run
	var who []sdk.TaskID
	for i := range r.tree.Processes {
		if p := &r.tree.Processes[i]; !p.Zombie {
			runs, who = append(runs, tape.Run{TID: p.PID, Tape: t}), append(who, p.ID)
		}
	}
	return r.runAll(ctx, "close service descriptors", runs, who)
}

// decodeContexts turns the image's registers into what threads can be given,
// before anything is created.
func decodeContexts(threads []*imagepb.HostThread) (map[sdk.TaskID]*task.Context, error) {
	out := map[sdk.TaskID]*task.Context{}
	for _, t := range threads {
		if t.Arch != arch.Name {
			return nil, fmt.Errorf("thread %d is of architecture %s, this machine is %s: %w", t.Id, t.Arch, arch.Name, sdk.ErrUnsupported)
		}
		regs, err := arch.RegsFromBytes(t.Registers)
		if err != nil {
			return nil, fmt.Errorf("registers of thread %d: %w", t.Id, err)
		}
		if err := arch.CheckXState(t.ExtendedState); err != nil {
			return nil, fmt.Errorf("extended state of thread %d: %w", t.Id, err)
		}
		if err := arch.CheckDebugRegs(t.DebugRegisters); err != nil {
			return nil, fmt.Errorf("thread %d: %w", t.Id, err)
		}
		out[sdk.TaskID(t.Id)] = &task.Context{Regs: regs.Restored(), XState: t.ExtendedState, SigMask: t.SigMask,
			DebugRegs: t.DebugRegisters}
	}
	return out, nil
}

// resume removes the last of the host's from every task, gives the threads
// their registers and lets them go. After the first one is let go there is no
// way back.
func (r *flow) resume(ctx context.Context) error {
	_, vdso, err := arch.VDSO()
	if err != nil {
		return err
	}
	gadgets := arch.Gadgets(vdso)
	if len(gadgets) == 0 {
		return fmt.Errorf("no system call instruction in the vdso: %w", sdk.ErrKernel)
	}
	unmap, err := r.unmapCalls(gadgets[0].Off)
	if err != nil {
		return err
	}
	return r.tracer.With(ctx, func(o *task.Ops) error {
		if err := o.SyscallAll(unmap); err != nil {
			return fmt.Errorf("unmap tape memory: %w", err)
		}
		for i := range r.tree.Processes {
			if p := &r.tree.Processes[i]; !p.Zombie {
				if err := r.setContexts(o, p); err != nil {
					return fmt.Errorf("task %d: %w", p.ID, err)
				}
			}
		}
		if r.ns != nil {
			if err := r.ns.start(o); err != nil {
				return fmt.Errorf("PID namespace: %w", err)
			}
		}
		// The root last: should the host be killed in the middle, the kernel
		// ends the root, and with it the PID namespace, if the tree has one.
		var errs []error
		for i := len(r.tree.Processes) - 1; i >= 0; i-- {
			if p := &r.tree.Processes[i]; !p.Zombie {
				errs = append(errs, r.letGo(o, p))
			}
		}
		return errors.Join(errs...)
	})
}

// unmapCalls are the calls that unmap the tape regions, made by the instruction
// at an offset in the vdso: all of the range, because behind its own region lies
// what is left of a larger one that the process inherited from its creator.
func (r *flow) unmapCalls(gadget uint64) ([]task.Call, error) {
	calls := make([]task.Call, len(r.tree.Processes))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range r.tree.Processes {
		p := &r.tree.Processes[i]
		if p.Zombie {
			continue
		}
		g.Go(func() error {
			vdso, err := findVDSO(p.PID)
			if err != nil {
				return fmt.Errorf("task %d: %w", p.ID, err)
			}
			calls[i] = task.Call{TID: task.HostPID(p.PID), Gadget: vdso + gadget, Nr: unix.SYS_MUNMAP,
				Args: [6]uint64{p.Reserved.Start, p.Reserved.Len()}}
			return nil
		})
	}
	err := g.Wait()
	return slices.DeleteFunc(calls, func(c task.Call) bool { return c.TID == 0 }), err
}

// setContexts gives all threads of a process their registers, signal masks and
// extended state.
func (r *flow) setContexts(o *task.Ops, p *sdk.Process) error {
	for _, th := range p.Threads {
		c := r.contexts[th.ID]
		if c == nil {
			return fmt.Errorf("thread %d has no registers: %w", th.ID, sdk.ErrCorrupt)
		}
		if err := o.SetContext(task.HostPID(th.TID), c); err != nil {
			return err
		}
	}
	return nil
}

func findVDSO(pid int) (uint64, error) {
	maps, err := procfs.Maps(pid)
	if err != nil {
		return 0, err
	}
	for _, m := range maps {
		if m.Path == "[vdso]" {
			return m.Start, nil
		}
	}
	return 0, fmt.Errorf("no vdso was restored: %w", sdk.ErrCorrupt)
}

// letGo detaches all threads of a process. One that was stopped, or is to be
// left stopped, gets its SIGSTOP first: it stops before its first instruction.
func (r *flow) letGo(o *task.Ops, p *sdk.Process) error {
	h := r.hostProcess(p.ID)
	if r.cfg.LeaveStopped || h != nil && h.State == imagepb.State_STATE_STOPPED {
		if err := unix.Kill(int(r.pids[p.ID]), unix.SIGSTOP); err != nil {
			return fmt.Errorf("stop task %d: %w", p.ID, err)
		}
	}
	var errs []error
	for _, th := range p.Threads {
		if err := o.Detach(task.HostPID(th.TID)); err != nil {
			errs = append(errs, fmt.Errorf("detach task %d: %w", th.ID, err))
		}
	}
	return errors.Join(errs...)
}

// destroy ends every task that was created and reaps it. It is what happens
// when the restore fails before the tree runs.
func (r *flow) destroy(ctx context.Context) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	r.engine.Close()
	return r.tracer.With(ctx, func(o *task.Ops) error {
		var errs []error
		for i := len(r.created) - 1; i >= 0; i-- {
			errs = append(errs, o.Kill(r.created[i].pid, r.created[i].tids))
		}
		return errors.Join(errs...)
	})
}
