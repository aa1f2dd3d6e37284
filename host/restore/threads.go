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
			for n := 1; n < len(p.Threads); n++ {
				th := &p.Threads[n]
				slice := r.regions.slice(p, n)
				tid, err := o.Clone(&task.Clone{
					From: task.HostPID(p.PID), Gadget: p.Reserved.Start + arch.TapeGadget(),
					Scratch: slice.Addr, Mem: slice.Mem, Flags: threadFlags, ID: task.NSPID(th.ID), Inside: r.ns != nil,
				})
				r.addThread(p.PID, tid)
				if err != nil {
					return fmt.Errorf("thread of task %d: %w", p.ID, err)
				}
				th.TID = int(tid)
				if err := r.addTarget(o, p, n); err != nil {
					return err
				}
			}
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
