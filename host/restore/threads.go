package restore

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/host/task"
)

// threadFlags make a thread as pthread_create(3) does.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
	unix.CLONE_THREAD | unix.CLONE_SYSVSEM

// cloneThreads creates all threads but the main ones, which share the address
// spaces that exist by now.
func (r *flow) cloneThreads(ctx context.Context) error {
	return r.tracer.With(ctx, func(o *task.Ops) error {
		for i := range r.tree.Processes {
			p := &r.tree.Processes[i]
			for n := range p.Threads {
				th := &p.Threads[n]
				if th.ID == p.ID {
					continue
				}
				slice := r.regions.thread(p, n)
				c := &task.Clone{
					From: task.HostPID(p.PID), Gadget: p.Reserved.Start + arch.TapeGadget(),
					Scratch: slice.Addr, Mem: slice.Mem, Flags: threadFlags, IDs: r.pidns.SetTID(th.ID), Inside: r.ns != nil,
				}
				create := o.Clone
				if p.UserNamespace != 0 {
					create = func(c *task.Clone) (task.HostPID, error) { return r.cloneNext(o, c) }
				}
				tid, err := create(c)
				r.addThread(p.PID, tid)
				if err != nil {
					return fmt.Errorf("thread of task %d: %w", p.ID, err)
				}
				th.TID = int(tid)
				if err := r.addTarget(o, task.HostPID(th.TID), slice); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// enterNamespaces has the children of processes be born where they were to be.
func (r *flow) enterNamespaces(ctx context.Context) error {
	return r.tracer.With(ctx, func(o *task.Ops) error {
		for _, st := range r.plan.Children {
			p := r.tree.Process(st.Task)
			if err := enter(o, r.pids[st.Task], p.Reserved.Start+arch.TapeGadget(), st); err != nil {
				return err
			}
		}
		return nil
	})
}

// exitMains has the main threads exit that had exited while others ran. From
// now on another thread stands for the process.
//
// It comes before the seal: the kernel gives the children of a thread that
// exits to another one, and sends them their parent death signals (prctl(2),
// PR_SET_PDEATHSIG), which they must not have yet.
func (r *flow) exitMains(ctx context.Context) error {
	return r.tracer.With(ctx, func(o *task.Ops) error {
		for i := range r.tree.Processes {
			p := &r.tree.Processes[i]
			if !p.MainExited() {
				continue
			}
			r.engine.Remove(task.HostPID(p.PID))
			status := unix.WaitStatus(r.hostProcess(p.ID).GetExitStatus())
			if err := o.ExitThread(task.HostPID(p.PID), p.Reserved.Start+arch.TapeGadget(), status.ExitStatus()); err != nil {
				return fmt.Errorf("task %d: end its main thread as it had ended: %w", p.ID, err)
			}
			p.PID = p.Threads[0].TID
		}
		return nil
	})
}

func (r *flow) addThread(pid int, tid task.HostPID) {
	if tid == 0 {
		return
	}
	for i := range r.created {
		if r.created[i].pid == task.HostPID(pid) {
			r.created[i].tids = append(r.created[i].tids, tid)
		}
	}
}
