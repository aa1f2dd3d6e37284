package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/checkpoint"
	"github.com/firn-cr/firn/host/dispatch"
)

// rehearsals is how often a worker checkpoints a process of its own before it is
// ready: the second time takes half as long as the first.
const rehearsals = 3

// rehearseTime bounds a rehearsal.
const rehearseTime = 10 * time.Second

// rehearse checkpoints a process that does nothing, into nothing. A worker works
// without it, too: that it fails, for want of rights or of plugins, is no error
// before somebody asks for a checkpoint.
func rehearse(ctx context.Context, plugins *dispatch.Warm, log hclog.Logger) {
	err := plugins.Rehearse(func() error {
		ctx, cancel := context.WithTimeout(ctx, rehearseTime)
		defer cancel()
		subject := exec.CommandContext(ctx, "/proc/self/exe", idleCommand)
		subject.Dir = "/"
		subject.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL}
		if err := subject.Start(); err != nil {
			return fmt.Errorf("start a subject: %w", err)
		}
		defer func() {
			_ = subject.Process.Kill()
			_ = subject.Wait()
		}()
		for range rehearsals {
			_, err := checkpoint.Run(ctx, checkpoint.Config{
				PID: subject.Process.Pid, Image: "-", Stdout: io.Discard, LeaveRunning: true,
				PluginDirs: dispatch.PluginDirs(), Warm: plugins, Version: version, Log: hclog.NewNullLogger(),
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Debug("no rehearsal", "error", err)
	}
}

// idleCommand is the process that a rehearsal checkpoints.
const idleCommand = "serve-subject"

func newServeSubject() *cobra.Command {
	return &cobra.Command{
		Use:    idleCommand,
		Short:  "Do nothing until the end",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			for {
				_ = unix.Pause()
			}
		},
	}
}
