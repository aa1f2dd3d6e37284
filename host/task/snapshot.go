package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// A snapshot is a copy of a frozen process that never runs: its memory is that of
// the process at this moment, by copy on write. It is made in two steps, so that
// nothing of it belongs to the process:
//
//	the process    tape: exclude the tape's region from copies; clone(2); wait for
//	               the clone to end
//	the clone      closes its descriptors; clone(2); is killed, and reaped by the tape
//	its clone      is the snapshot: an orphan, which init reaps
//
// Both clones are traced from their birth and are killed with the tracer; that the
// process has cloned, the tracer is told by the kernel. Should
// the host die before that is set, the first one finds no memory where its next
// instruction should be, and ends; the process reaps it and goes on.
//
// No signal and no wait(2) of the process tells of the clone: its exit signal is 0,
// and it is gone before the process goes on.
type snapshot struct {
	proc   *Process
	region *region
	t      *target
	run    tape.Run
	clone  HostPID
	copy   HostPID
	err    error
}

// snapshotTime bounds the making of snapshots: copying page tables takes some ten
// milliseconds per GiB.
const snapshotTime = 30 * time.Second

// Snapshot copies frozen processes. The copies live until [Frozen.DropSnapshots].
// The error is about all of them; each has its own.
func (f *Frozen) Snapshot(ctx context.Context, pids []int) ([]sdk.Snapshot, error) {
	if err := f.engine.acquire(ctx); err != nil {
		return nil, err
	}
	defer f.engine.release()
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotTime, fmt.Errorf("copy processes: %w after %v", sdk.ErrTimeout, snapshotTime))
	defer cancel()
	all, err := f.newSnapshots(ctx, pids)
	if err != nil {
		return nil, err
	}
	var runs []tape.Run
	var active []*snapshot
	for _, s := range all {
		if s.err == nil {
			s.t.born = 0
			active, runs = append(active, s), append(runs, s.run)
		}
	}
	if len(active) > 0 {
		if err := f.takeSnapshots(ctx, active, runs); err != nil {
			return nil, err
		}
	}
	out := make([]sdk.Snapshot, len(all))
	for i, s := range all {
		out[i] = sdk.Snapshot{PID: int(s.copy), Err: s.err}
	}
	return out, nil
}

// newSnapshots makes the processes ready for tapes and builds the tapes.
func (f *Frozen) newSnapshots(ctx context.Context, pids []int) ([]*snapshot, error) {
	byPID := map[HostPID]*Process{}
	for _, p := range f.Processes {
		byPID[p.PID] = p
	}
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	var fresh []*Process
	all := make([]*snapshot, len(pids))
	for i, pid := range pids {
		p := byPID[HostPID(pid)]
		all[i] = &snapshot{proc: p}
		switch ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); {
		case p == nil || len(p.Threads) == 0:
			all[i].err = fmt.Errorf("process %d: not a stopped process of the tree: %w", pid, sdk.ErrTaskGone)
		case err != nil:
			all[i].err = err
		case ns != own:
			// The copy would be left to the init of its namespace, which may be of
			// the tree.
			all[i].err = fmt.Errorf("process %d is in another PID namespace: %w", pid, sdk.ErrUnsupported)
		case f.regions[p.PID] == nil:
			fresh = append(fresh, p)
		}
	}
	if err := f.prepare(ctx, fresh); err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.err != nil {
			continue
		}
		tid := s.proc.Threads[0].TID
		s.region, s.t = f.regions[s.proc.PID], f.engine.targets[tid]
		t := &tape.Tape{}
		t.Call(unix.SYS_MADVISE, tape.Imm(s.region.addr), tape.Imm(s.region.size()), tape.Imm(unix.MADV_DONTFORK))
		born := t.Call(unix.SYS_CLONE, tape.Imm(unix.CLONE_PTRACE))
		t.Call(unix.SYS_WAIT4, born.Arg(), tape.Imm(0), tape.Imm(unix.WALL))
		s.run = tape.Run{TID: int(tid), Tape: t}
	}
	return all, nil
}

// takeSnapshots runs the tapes, and meanwhile makes copies of the clones.
func (f *Frozen) takeSnapshots(ctx context.Context, active []*snapshot, runs []tape.Run) error {
	type result struct {
		out []tape.Outcome
		err error
	}
	ended := make(chan result, 1)
	go func() {
		out, err := f.engine.run(ctx, runs)
		ended <- result{out, err}
	}()
	var res *result
	for _, s := range active {
		for s.err == nil && res == nil {
			if s.err = f.tracer.Do(s.poll); s.err != nil || s.clone > 0 {
				break
			}
			select {
			case r := <-ended:
				res = &r
			case <-ctx.Done():
				s.err = context.Cause(ctx)
			case <-time.After(20 * time.Microsecond):
			}
		}
		if s.clone > 0 {
			s.err = errors.Join(s.err, f.tracer.With(context.WithoutCancel(ctx), func(o *Ops) error { return s.take(o) }))
		}
		if s.copy > 0 {
			f.snapshots = append(f.snapshots, s.copy)
		}
	}
	if res == nil {
		r := <-ended // the clones are gone, so the tapes end
		res = &r
	}
	if res.err != nil {
		return res.err
	}
	for i, s := range active {
		s.err = errors.Join(s.err, res.out[i].Err)
	}
	return nil
}

// poll looks whether the process has cloned. It stands still then, with the news of
// its clone for the tracer, and is let go.
func (s *snapshot) poll() error {
	if s.t.born == 0 {
		stop, ok, err := pollWait(s.t.tid)
		switch {
		case err != nil:
			return err
		case ok && stop.ended():
			return errGone
		case ok && stop.isEventStop():
			return cont(s.t.tid, 0)
		case ok:
			if err := s.t.pass(stop); err != nil {
				return err
			}
		}
	}
	s.clone = s.t.born
	return nil
}

// take makes the copy and ends the clone, whatever happens.
func (s *snapshot) take(o *Ops) (err error) {
	defer func() {
		err = errors.Join(err, o.Kill(s.clone, []HostPID{s.clone}))
		if err != nil && s.copy > 0 {
			err = errors.Join(err, o.Kill(s.copy, []HostPID{s.copy}))
			s.copy = 0
		}
	}()
	if err := o.AwaitStop(s.clone); err != nil {
		return err
	}
	if err := suspended(opsOptions|optTraceFork|optTraceClone, func(opts uintptr) error { return setOptions(s.clone, opts) }); err != nil {
		return fmt.Errorf("copy of process %d: set options: %w", s.proc.PID, err)
	}
	gadget := s.region.way.vdso + s.region.way.gadget.Off
	// What the process closes must not stay open in a copy.
	if _, err := o.Syscall(s.clone, gadget, unix.SYS_CLOSE_RANGE, 0, uint64(^uint32(0)), 0); err != nil {
		return fmt.Errorf("copy of process %d: close its files: %w", s.proc.PID, err)
	}
	_, born, err := o.execute(s.clone, gadget, unix.SYS_CLONE, unix.CLONE_PTRACE)
	if err == nil && born == 0 {
		err = fmt.Errorf("the kernel does not tell of its clone: %w", sdk.ErrKernel)
	}
	if err != nil {
		return fmt.Errorf("copy process %d: %w", s.proc.PID, err)
	}
	s.copy = born
	return o.AwaitStop(s.copy)
}

// DropSnapshots ends the copies.
func (f *Frozen) DropSnapshots(ctx context.Context) error {
	list := f.snapshots
	f.snapshots = nil
	if len(list) == 0 {
		return nil
	}
	return f.tracer.With(ctx, func(o *Ops) error {
		var errs []error
		for _, pid := range list {
			errs = append(errs, o.Kill(pid, []HostPID{pid}))
		}
		return errors.Join(errs...)
	})
}
