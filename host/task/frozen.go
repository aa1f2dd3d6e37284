package task

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// RunTapes runs tapes in frozen threads. A process whose first tape it is gets
// a shared mapping for it, which the thaw removes.
func (f *Frozen) RunTapes(ctx context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	if err := f.engine.acquire(ctx); err != nil {
		return nil, err
	}
	defer f.engine.release()
	owners := map[HostPID]*Process{}
	for _, p := range f.Processes {
		for _, th := range p.Threads {
			owners[th.TID] = p
		}
	}
	var fresh []*Process
	seen := map[HostPID]bool{}
	for _, r := range runs {
		p := owners[HostPID(r.TID)]
		if p == nil || f.regions[p.PID] != nil || seen[p.PID] {
			continue
		}
		seen[p.PID] = true
		fresh = append(fresh, p)
	}
	if err := f.prepare(ctx, fresh); err != nil {
		return nil, err
	}
	return f.engine.run(ctx, runs)
}

// Warm makes every process ready for tapes, so that the first tapes need not
// wait for that. It is meant to run beside other work on the frozen tree. What
// fails is tried again, and reported, by RunTapes.
func (f *Frozen) Warm(ctx context.Context) error {
	if err := f.engine.acquire(ctx); err != nil {
		return err
	}
	defer f.engine.release()
	var fresh []*Process
	for _, p := range f.Processes {
		if len(p.Threads) > 0 && f.regions[p.PID] == nil {
			fresh = append(fresh, p)
		}
	}
	return f.prepare(ctx, fresh)
}

// prepare maps regions into processes and makes their threads targets.
func (f *Frozen) prepare(ctx context.Context, procs []*Process) (err error) {
	regions := make([]*region, len(procs))
	for _, p := range procs {
		for _, th := range p.Threads {
			f.engine.Add(th, Slice{})
		}
	}
	defer func() {
		if err != nil {
			regions = slices.DeleteFunc(regions, func(r *region) bool { return r == nil })
			err = errors.Join(err, f.tracer.Do(func() error { return unmapRegions(ctx, regions) }))
		}
	}()
	err = inParallel(procs, func(i int, p *Process) (err error) {
		regions[i], err = newRegion(p, f.engine.targets[p.Threads[0].TID])
		return err
	})
	if err != nil {
		return err
	}
	if err := f.tracer.Do(func() error { return mapRegions(ctx, regions) }); err != nil {
		return err
	}
	if err := inParallel(procs, func(i int, _ *Process) error { return regions[i].open() }); err != nil {
		return err
	}
	for i, p := range procs {
		f.regions[p.PID] = regions[i]
		for n, th := range p.Threads {
			f.engine.targets[th.TID].slice = regions[i].slice(n)
		}
	}
	return nil
}

// inParallel calls do for every process from as many goroutines as there are
// processors.
func inParallel(procs []*Process, do func(i int, p *Process) error) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, p := range procs {
		g.Go(func() error {
			if err := do(i, p); err != nil {
				return fmt.Errorf("prepare task %d for tapes: %w", p.PID, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Thaw removes every trace and lets all tasks go on as if nothing had
// happened. It goes on after errors and is harmless when repeated.
func (f *Frozen) Thaw(ctx context.Context) error { return f.release(ctx, false) }

// ThawStopped is Thaw, but leaves every process stopped by SIGSTOP, for
// somebody to continue by SIGCONT.
func (f *Frozen) ThawStopped(ctx context.Context) error { return f.release(ctx, true) }

func (f *Frozen) release(ctx context.Context, stopped bool) error {
	if f.done {
		return nil
	}
	f.done = true
	f.engine.Close()
	return f.tracer.Do(func() error {
		var errs []error
		var regions []*region
		for _, r := range f.regions {
			if f.lost(r.proc) {
				errs = append(errs, r.drop(), fmt.Errorf("task %d did not come back from injected work in time: it will by itself", r.proc.PID))
				continue
			}
			regions = append(regions, r)
		}
		errs = append(errs, unmapRegions(ctx, regions), f.groups.freeze())
		for _, p := range f.Processes {
			if stopped && len(p.Threads) > 0 && p.State == Running {
				errs = append(errs, ignoreGone(unix.Kill(int(p.PID), unix.SIGSTOP)))
			}
			for _, th := range p.Threads {
				errs = append(errs, f.letGo(th))
			}
		}
		return errors.Join(errs...)
	})
}

// lost tells whether a thread of a process is still in injected work: then the
// region has to stay, which is harmless.
func (f *Frozen) lost(p *Process) bool {
	for _, th := range p.Threads {
		if t := f.engine.targets[th.TID]; t != nil && t.lost {
			return true
		}
	}
	return false
}

// letGo detaches one thread, from whatever stop it is at.
func (f *Frozen) letGo(th *Thread) error {
	if t := f.engine.targets[th.TID]; t != nil {
		if err := ignoreGone(t.resend()); err != nil {
			return fmt.Errorf("task %d: send postponed signals: %w", th.TID, err)
		}
	}
	if err := ignoreGone(detach(th.TID, 0)); err != nil {
		return fmt.Errorf("detach task %d: %w", th.TID, err)
	}
	return nil
}

func ignoreGone(err error) error {
	if isGone(err) {
		return nil
	}
	return err
}

// reapTime is how long a dead process may stay a zombie before Kill reports
// it. Init may take seconds to reap an orphan; a parent that is an ordinary
// program reaps when it likes, possibly only after the host has ended.
const (
	initReapTime   = 10 * time.Second
	parentReapTime = 200 * time.Millisecond
)

// Kill ends every process of the tree and waits until their numbers are free.
// The processes that are dead but not reaped yet by their parents are returned.
func (f *Frozen) Kill(ctx context.Context) (unreaped []HostPID, err error) {
	if f.done {
		return nil, nil
	}
	f.done = true
	f.engine.Close()
	err = f.tracer.Do(func() error { return f.killAll(ctx) })
	return f.awaitReaped(ctx), errors.Join(err, f.groups.freeze())
}

func (f *Frozen) killAll(ctx context.Context) error {
	var errs []error
	for _, p := range f.Processes {
		if p.Resident < largeMemory {
			errs = append(errs, ignoreGone(unix.Kill(int(p.PID), unix.SIGKILL)))
		}
	}
	for _, p := range f.Processes {
		if p.Resident >= largeMemory {
			errs = append(errs, killLarge(p.PID))
		}
	}
	for _, r := range f.regions {
		errs = append(errs, r.drop())
	}
	// The kernel lets a parent reap a process only after its tracer has
	// reaped every thread, the main thread last.
	for _, p := range f.Processes {
		for i := len(p.Threads) - 1; i >= 0; i-- {
			errs = append(errs, reap(ctx, p.Threads[i].TID))
		}
	}
	return errors.Join(errs...)
}

// largeMemory is from how much resident memory on freeing it is worth a call.
const largeMemory = 32 << 20

// killLarge kills a process and frees its memory together with it, which takes
// half the time (process_mrelease(2), since Linux 5.15): until the memory is
// free the process is not gone. It has to come right after the kill, before the
// process has let go of its memory; else the process frees all of it alone.
func killLarge(pid HostPID) error {
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return ignoreGone(unix.Kill(int(pid), unix.SIGKILL))
	}
	defer unix.Close(fd)
	defer leaveCPUTo(pid)()
	err = ignoreGone(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
	_, _, _ = unix.Syscall(unix.SYS_PROCESS_MRELEASE, uintptr(fd), 0, 0)
	return err
}

// leaveCPUTo moves the calling thread to another processor than the one on
// which a process ran last, until the returned function is called: woken up
// there by a signal, the process does not take the processor from the thread.
// The goroutine must be locked to its thread. It does nothing where there is no
// other processor.
func leaveCPUTo(pid HostPID) (restore func()) {
	nothing := func() {}
	st, err := procfs.Stat(int(pid))
	if err != nil {
		return nothing
	}
	var old unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil || !old.IsSet(st.Processor) || old.Count() < 2 {
		return nothing
	}
	others := old
	others.Clear(st.Processor)
	if err := unix.SchedSetaffinity(0, &others); err != nil {
		return nothing
	}
	return func() { _ = unix.SchedSetaffinity(0, &old) } // what was allowed before still is
}

func reap(ctx context.Context, tid HostPID) error {
	for {
		s, err := waitStop(ctx, tid)
		if errors.Is(err, sdk.ErrTaskGone) {
			return nil
		}
		if err != nil {
			return err
		}
		if s.ended() {
			return nil
		}
	}
}

// awaitReaped waits until no process of the tree is left, each for as long as
// its parent may be expected to take.
func (f *Frozen) awaitReaped(ctx context.Context) (unreaped []HostPID) {
	start := time.Now()
	for _, p := range f.Processes {
		for {
			now, err := readProcess(p.PID)
			if err != nil || now.StartTime != p.StartTime {
				break
			}
			patience := parentReapTime
			if now.Parent != p.Parent || now.Parent <= 1 { // init or a subreaper
				patience = initReapTime
			}
			if time.Since(start) > patience || ctx.Err() != nil {
				unreaped = append(unreaped, p.PID)
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	return unreaped
}

// Thread finds a thread of the tree.
func (f *Frozen) Thread(tid HostPID) *Thread {
	for _, p := range f.Processes {
		for _, th := range p.Threads {
			if th.TID == tid {
				return th
			}
		}
	}
	return nil
}
