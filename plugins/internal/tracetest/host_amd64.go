package tracetest

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// Host implements sdk.Host for the processes that it has started. Its one
// locked thread owns ptrace; the methods may be called from anywhere.
type Host struct {
	t     testing.TB
	calls chan func()
	slots map[int]uint64 // by thread: where its tapes have their data
	pids  map[int]int    // by thread: its process
}

// New returns a host whose processes end with the test.
func New(t testing.TB) *Host {
	h := &Host{t: t, calls: make(chan func()), slots: map[int]uint64{}, pids: map[int]int{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // never unlocked: the thread ends, and with it the tracing
		for f := range h.calls {
			f()
		}
	}()
	t.Cleanup(func() {
		h.do(h.killAll)
		close(h.calls)
		<-ended
	})
	return h
}

// do runs f on the tracing thread.
func (h *Host) do(f func()) {
	done := make(chan struct{})
	h.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Start starts a process with n threads, all of them stopped.
func (h *Host) Start(n int) sdk.Process {
	h.t.Helper()
	pid := startProgram(h.t)
	p := sdk.Process{ID: sdk.TaskID(pid), PID: pid, PGID: sdk.TaskID(pid), Comm: "subject"}
	var err error
	h.do(func() {
		if err = h.seize(pid); err != nil {
			return
		}
		h.add(pid, pid, 0)
		p.Threads = append(p.Threads, sdk.Thread{ID: p.ID, TID: pid})
		for i := 1; i < n && err == nil; i++ {
			var tid int
			if tid, err = h.newTask(pid, threadFlags); err == nil {
				h.add(tid, pid, i)
				p.Threads = append(p.Threads, sdk.Thread{ID: sdk.TaskID(tid), TID: tid})
			}
		}
	})
	if err != nil {
		h.t.Fatalf("start subject: %v", err)
	}
	return p
}

func (h *Host) add(tid, pid, slot int) {
	h.slots[tid] = loadAddr + uint64(slot+1)*slotSize
	h.pids[tid] = pid
}

// threadFlags are those that make a clone a thread of the same process.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
	unix.CLONE_THREAD | unix.CLONE_SYSVSEM

// newTask makes a thread or a child by clone(2) in the main thread.
func (h *Host) newTask(pid int, flags uint64) (int, error) {
	ret, err := h.syscall(pid, unix.SYS_CLONE, [6]uint64{flags})
	if err != nil || ret < 0 {
		return 0, fmt.Errorf("clone: %d, %w", ret, err)
	}
	if _, err := wait(int(ret)); err != nil {
		return 0, err
	}
	return int(ret), block(int(ret))
}

// Clone makes a child of a process by clone(2) with flags, but for an exit
// signal, of which it has none.
func (h *Host) Clone(parent sdk.Process, flags uint64) sdk.Process {
	h.t.Helper()
	var pid int
	var err error
	h.do(func() {
		if pid, err = h.newTask(parent.PID, flags); err == nil {
			h.add(pid, pid, 0)
		}
	})
	if err != nil {
		h.t.Fatalf("start child: %v", err)
	}
	return sdk.Process{ID: sdk.TaskID(pid), PID: pid, Parent: parent.ID, PGID: parent.PGID, Comm: "subject",
		Threads: []sdk.Thread{{ID: sdk.TaskID(pid), TID: pid}}}
}

// Session makes a session of the processes, with all their tasks as resources.
func (h *Host) Session(processes ...sdk.Process) *sdk.Session {
	s := &sdk.Session{Tree: &sdk.Tree{Root: processes[0].ID, Processes: processes},
		Options: map[string]string{}, Host: h, Log: hclog.NewNullLogger()}
	for _, p := range processes {
		s.Resources = append(s.Resources, sdk.Resource{Kind: sdk.KindTask, Object: uint64(p.ID), Task: p.ID})
	}
	return s
}

// RunTapes implements sdk.Host.
func (h *Host) RunTapes(_ context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	outcomes := make([]tape.Outcome, len(runs))
	h.do(func() {
		for i, r := range runs {
			outcomes[i] = h.run(r)
		}
	})
	return outcomes, nil
}

// Progress implements sdk.Host.
func (h *Host) Progress(int64, int64) {}

func (h *Host) run(r tape.Run) (o tape.Outcome) {
	base, ok := h.slots[r.TID]
	if !ok || len(r.Tape.Data) > slotSize {
		o.Err = fmt.Errorf("no room for %d bytes in thread %d", len(r.Tape.Data), r.TID)
		return o
	}
	o.Data = make([]byte, len(r.Tape.Data))
	if o.Err = h.copyIn(r.TID, base, r.Tape.Data); o.Err != nil {
		return o
	}
	for i, c := range r.Tape.Calls {
		var args [6]uint64
		for j, a := range c.Args {
			switch a.Kind {
			case tape.ArgConst:
				args[j] = a.Value
			case tape.ArgData:
				args[j] = base + a.Value
			case tape.ArgResult:
				args[j] = uint64(o.Results[a.Value])
			}
		}
		ret, err := h.syscall(r.TID, c.Nr, args)
		if err != nil {
			o.Err = fmt.Errorf("call %d in thread %d: %w", i, r.TID, err)
			return o
		}
		o.Results = append(o.Results, ret)
		if ret < 0 && ret >= -4095 && !c.AllowError {
			o.Err = &tape.CallError{Index: i, Nr: c.Nr, Errno: syscall.Errno(-ret)}
			break
		}
	}
	if err := h.copyOut(r.TID, base, o.Data); err != nil {
		o.Err = err
	}
	return o
}

// Call runs one system call in a thread and returns its raw result.
func (h *Host) Call(tid, nr int, args ...tape.Arg) int64 {
	h.t.Helper()
	var tp tape.Tape
	tp.Try(nr, args...)
	return h.Run(tid, &tp).Results[0]
}

// Run runs a tape in a thread; the test fails if it does not get to its end.
func (h *Host) Run(tid int, tp *tape.Tape) tape.Outcome {
	h.t.Helper()
	o, err := h.RunTapes(context.Background(), []tape.Run{{TID: tid, Tape: tp}})
	if err != nil || o[0].Err != nil {
		h.t.Fatalf("tape in thread %d: %v %v", tid, err, o[0].Err)
	}
	return o[0]
}
