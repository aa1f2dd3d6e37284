package task

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// read describes the tree once everything is stopped.
func (f *freezer) read(roots Roots) ([]*Process, error) {
	procs, err := walk(roots.Root, f.first, func(pid HostPID) (members, error) {
		if m, ok := f.members[pid]; ok {
			return m, nil
		}
		return membersOf(pid)
	})
	if err != nil {
		return nil, err
	}
	known := map[HostPID]bool{}
	for _, p := range procs {
		live := p.Threads[:0]
		for _, th := range p.Threads {
			t := f.tasks[th.TID]
			if t == nil {
				continue // a zombie: nothing left to stop
			}
			known[th.TID] = true
			if sig := t.last.signal(); sig != unix.SIGTRAP {
				p.State, p.StopSignal = Stopped, sig
			}
			if err := suspendSeccomp(th.TID); err != nil {
				return nil, fmt.Errorf("task %d: suspend seccomp: %w", th.TID, err)
			}
			err := readThread(th)
			if errors.Is(err, errWorker) {
				if err = f.leave(th.TID); err == nil {
					continue
				}
			}
			if err != nil {
				return nil, fmt.Errorf("read task %d: %w", th.TID, err)
			}
			live = append(live, th)
		}
		p.Threads = live
	}
	for tid := range f.tasks {
		if !known[tid] {
			return nil, fmt.Errorf("task %d left the tree while it was frozen: %w", tid, sdk.ErrTaskGone)
		}
	}
	return procs, nil
}

// errWorker means that a thread is one of the kernel's.
var errWorker = errors.New("a worker of the kernel")

// pfUserWorker is PF_USER_WORKER (since Linux 6.4), pfIOWorker PF_IO_WORKER (since
// 5.12) of linux/sched.h.
const (
	pfUserWorker = 0x4000
	pfIOWorker   = 0x10
)

// isWorker tells whether a thread works for the kernel in the name of a process, as
// those of io_uring and vhost do: it can be traced and stops, but never runs a
// program, and has no registers of one.
func isWorker(th *Thread) (bool, error) {
	if th.Regs.PC() != 0 || th.Regs.SP() != 0 {
		return false, nil
	}
	st, err := procfs.ThreadStat(int(th.TID), int(th.TID))
	return st.Flags&(pfUserWorker|pfIOWorker) != 0, err
}

// leave lets a worker go: the kernel makes others where it needs some.
func (f *freezer) leave(tid HostPID) error {
	delete(f.tasks, tid)
	if err := detach(tid, 0); err != nil && !errors.Is(err, sdk.ErrTaskGone) {
		return fmt.Errorf("detach worker %d: %w", tid, err)
	}
	return nil
}

func readThread(th *Thread) (err error) {
	if th.Regs, err = arch.GetRegs(int(th.TID)); err != nil {
		return err
	}
	if worker, err := isWorker(th); err != nil || worker {
		return cmp.Or(err, errWorker)
	}
	if err = arch.CheckTask(int(th.TID)); err != nil {
		return err
	}
	if th.Dispatches, err = userDispatch(th.TID); err != nil {
		return err
	}
	if err = resolveRestart(th); err != nil {
		return err
	}
	if err = abortRseq(th); err != nil {
		return err
	}
	if th.DebugRegs, err = arch.GetDebugRegs(int(th.TID)); err != nil {
		return err
	}
	if th.XState, err = arch.GetXState(int(th.TID)); err != nil {
		return err
	}
	th.SigMask, err = signalMask(th.TID)
	return err
}

// resolveRestart finds out which call a thread is in that was interrupted for
// the second time: the kernel shows restart_syscall then, which is of no use to
// a restored task.
func resolveRestart(th *Thread) error {
	if !th.Regs.InRestart() && !th.Regs.MayRestart() {
		return nil
	}
	text := make([]byte, arch.ResolveLen)
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", th.TID))
	if err != nil {
		return err
	}
	defer f.Close()
	code := make([]byte, arch.StopSyscallLen)
	if _, err := f.ReadAt(code, int64(th.Regs.PC())); err == nil {
		th.Regs.PendingRestart(code)
	}
	if _, err := f.ReadAt(text, int64(th.Regs.PC())-int64(len(text))); err == nil {
		th.Regs.ResolveRestart(text)
	}
	return nil
}

// Trace returns, for each thread, what only its tracer can read.
func (f *Frozen) Trace(ctx context.Context, tids []int) ([]sdk.TraceInfo, error) {
	type thread struct {
		*Thread
		process HostPID
	}
	threads := map[HostPID]thread{}
	for _, p := range f.Processes {
		for _, th := range p.Threads {
			threads[th.TID] = thread{th, p.PID}
		}
	}
	shared := map[HostPID][][]byte{} // signals that are pending for whole processes
	// Only stopped threads can be looked into: not in the middle of a tape.
	if err := f.engine.acquire(ctx); err != nil {
		return nil, err
	}
	defer f.engine.release()
	infos := make([]sdk.TraceInfo, 0, len(tids))
	err := f.tracer.Do(func() error {
		for _, tid := range tids {
			th, known := threads[HostPID(tid)]
			if !known {
				return fmt.Errorf("trace task %d: %w", tid, sdk.ErrTaskGone)
			}
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			info, err := traceInfo(th.Thread)
			if err != nil {
				return fmt.Errorf("trace task %d: %w", tid, err)
			}
			if _, known := shared[th.process]; !known {
				if shared[th.process], err = pendingSignals(th.TID, true); err != nil {
					return fmt.Errorf("trace task %d: %w", tid, err)
				}
			}
			info.SharedPending = shared[th.process]
			infos = append(infos, info)
		}
		return nil
	})
	return infos, err
}

// traceInfo reads what is pending for a thread, which may come at any time; the
// rest cannot change while the thread stands still, and is read once.
func traceInfo(th *Thread) (info sdk.TraceInfo, err error) {
	info = sdk.TraceInfo{
		TID: int(th.TID), SigMask: th.SigMask,
		StackPointer: th.Regs.SP(), InstructionPointer: th.Regs.PC(),
	}
	if info.Pending, err = pendingSignals(th.TID, false); err != nil {
		return info, err
	}
	if !th.traced {
		if th.rseq, err = rseqOf(th.TID); err != nil {
			return info, err
		}
		if th.filters, err = seccompFilters(th.TID); err != nil {
			return info, err
		}
		th.traced = true
	}
	info.Rseq, info.SeccompFilters = th.rseq, th.filters
	return info, nil
}
