package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Running is a restored tree whose root is a child of this process.
type Running struct {
	// PID of the root.
	PID int
}

// Wait waits for the root process and returns its wait status. When ctx ends
// first, the tree goes on and the context's error is returned.
func (r *Running) Wait(ctx context.Context) (unix.WaitStatus, error) {
	pidfd, err := unix.PidfdOpen(r.PID, unix.PIDFD_NONBLOCK)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("wait for task %d: pidfd: %w", r.PID, err)
	}
	if err == nil {
		defer unix.Close(pidfd)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(r.PID, &status, unix.WNOHANG, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for task %d: %w", r.PID, err)
		}
		if pid == r.PID {
			return status, nil
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		// A pidfd polls readable when the process has ended.
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int((200 * time.Millisecond).Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for task %d: %w", r.PID, err)
		}
	}
}
