package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/restore"
)

// forwarded are the signals that a restored program gets in firn's place while
// firn waits for it.
var forwarded = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

// passOn waits for the root of a restored tree and ends with its status. The
// tree may run on the terminal of firn, as a job; else j is nil.
func passOn(ctx context.Context, tree *restore.Running, j *job) error {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, forwarded...)
	if j != nil {
		defer j.ended()
		tree.Stopped = func(by syscall.Signal) { j.stopped(tree.PID, by) }
	} else {
		signal.Notify(ch, syscall.SIGCONT)
	}
	defer signal.Stop(ch)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-ch:
				// The root may have ended meanwhile; then Wait returns.
				_ = unix.Kill(tree.PID, s.(syscall.Signal))
			case <-done:
				return
			}
		}
	}()
	// Signals go to the program: they must not end the wait.
	status, err := tree.Wait(context.WithoutCancel(ctx))
	if err != nil {
		return &commandError{"restore", err}
	}
	if status.Signaled() {
		return &exitError{128 + int(status.Signal())}
	}
	return &exitError{status.ExitStatus()}
}
