package checkpoint

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/pidns/survey"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// findRoot makes sure that the root is a process that can be one. An init of
// Firn's stands for the root that it waits for, and what the tree has left to it
// belongs to the tree.
func (f *flow) findRoot() error {
	pid := task.HostPID(f.cfg.PID)
	if err := checkRoot(pid); err != nil {
		return err
	}
	init, err := survey.AsInit(pid)
	if err != nil && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	if init == nil {
		if init, err = survey.InitOf(pid); err != nil {
			return err
		}
	} else if err := checkRoot(init.Root); err != nil {
		return err
	}
	f.roots = task.Roots{Root: pid}
	if init != nil {
		f.roots = task.Roots{Root: init.Root, Init: init.PID}
	}
	f.cfg.PID = int(f.roots.Root)
	return nil
}

// checkRoot refuses what is no process, with the reason.
func checkRoot(pid task.HostPID) error {
	ok, process, err := task.IsProcess(pid)
	switch {
	case err != nil:
		return fmt.Errorf("there is no such process: %w", sdk.ErrTaskGone)
	case !ok:
		return fmt.Errorf("%d is a thread of process %d: checkpoint that one: %w", pid, process, sdk.ErrUnsupported)
	case pid == 1:
		return fmt.Errorf("process 1 cannot be checkpointed from inside its PID namespace: %w", sdk.ErrUnsupported)
	}
	for self := unix.Getpid(); self > 1; {
		if task.HostPID(self) == pid {
			return fmt.Errorf("firn itself runs below process %d: %w", pid, sdk.ErrUnsupported)
		}
		parent, err := task.ParentOf(task.HostPID(self))
		if err != nil {
			return err
		}
		self = int(parent)
	}
	return nil
}
