package restore

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Running is a restored tree whose root is a child of this process.
type Running struct {
	// PID of the root.
	PID int
	// Init is the first process of the tree's own PID namespace, which is a
	// child of this process, too; 0 if there is none.
	Init int
	// Stopped, if set, is called by Wait when a signal has stopped the root.
	Stopped func(by syscall.Signal)
}

// Wait waits for the root process and returns its wait status. A PID namespace
// of the tree's own has ended by then, and everybody in it. When ctx ends
// first, the tree goes on and the context's error is returned.
func (r *Running) Wait(ctx context.Context) (unix.WaitStatus, error) {
	status, err := r.wait(ctx, r.PID)
	if err != nil || r.Init == 0 {
		return status, err
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if _, err := r.wait(ctx, r.Init); err != nil {
		return status, fmt.Errorf("the root of the tree has ended, its PID namespace has not: %w", err)
	}
	return status, nil
}

func (r *Running) wait(ctx context.Context, pid int) (unix.WaitStatus, error) {
	pidfd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("wait for task %d: pidfd: %w", pid, err)
	}
	if err == nil {
		defer unix.Close(pidfd)
	}
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(pid, &status, unix.WNOHANG|unix.WUNTRACED, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for task %d: %w", pid, err)
		}
		if got == pid && status.Stopped() {
			if r.Stopped != nil && pid == r.PID {
				r.Stopped(status.StopSignal())
			}
			continue
		}
		if got == pid {
			return status, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		// A pidfd polls readable when the process has ended.
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int((200 * time.Millisecond).Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for task %d: %w", pid, err)
		}
	}
}
