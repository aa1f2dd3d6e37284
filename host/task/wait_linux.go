package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// stop is why a tracee stands still, or how it ended.
type stop struct {
	tid    HostPID
	status unix.WaitStatus
}

func (s stop) event() int          { return int(s.status) >> 16 }
func (s stop) signal() unix.Signal { return s.status.StopSignal() }
func (s stop) ended() bool         { return s.status.Exited() || s.status.Signaled() }
func (s stop) isEventStop() bool   { return s.event() == eventStop }
func (s stop) isSyscallStop() bool { return s.event() == 0 && s.signal() == syscallStopSignal }
func (s stop) isSignal() bool      { return s.event() == 0 && !s.isSyscallStop() }
func (s stop) isNewTask() bool {
	return s.event() == eventFork || s.event() == eventVfork || s.event() == eventClone
}

// How a wait goes on when nothing has happened yet. A tracee on the same CPU
// needs the tracer to yield; one on another CPU answers within microseconds.
const (
	spinTime   = 100 * time.Microsecond
	firstNap   = 20 * time.Microsecond
	longestNap = time.Millisecond
)

// pollWait asks once. It never takes the state of a task that the host has not
// attached to: only the given id is waited for.
func pollWait(tid HostPID) (stop, bool, error) {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(int(tid), &status, unix.WALL|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return stop{}, false, fmt.Errorf("wait for task %d: %w", tid, sdk.ErrTaskGone)
		case err != nil:
			return stop{}, false, fmt.Errorf("wait for task %d: %w", tid, err)
		}
		return stop{tid, status}, got == int(tid), nil
	}
}

// waitStop waits until the task stops or ends, or until ctx ends. It runs on
// the tracing thread and never blocks the runtime.
func waitStop(ctx context.Context, tid HostPID) (stop, error) {
	start, nap := time.Now(), firstNap
	for {
		s, ok, err := pollWait(tid)
		if err != nil || ok {
			return s, err
		}
		if time.Since(start) < spinTime {
			// Scheduler-aware: another goroutine may need this CPU.
			_, _, _ = unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			continue
		}
		if ctx.Err() != nil {
			return stop{}, fmt.Errorf("wait for task %d to stop: %w", tid, context.Cause(ctx))
		}
		ts := unix.NsecToTimespec(int64(nap))
		_ = unix.Nanosleep(&ts, nil)
		nap = min(2*nap, longestNap)
	}
}
