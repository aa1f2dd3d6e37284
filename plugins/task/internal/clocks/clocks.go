package clocks

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// Read reads the clocks as a process sees them.
func Read(pid int) (Reading, error) {
	now, err := machine()
	if err != nil {
		return Reading{}, err
	}
	shift, err := offsetsOf(strconv.Itoa(pid))
	if err != nil {
		return Reading{}, fmt.Errorf("read time namespace: %w", err)
	}
	return now.plus(shift), nil
}

// Restore makes the clocks of the tree go on from what was saved, unless
// --host-clocks was given. It is called when namespaces are restored: the first
// process makes a time namespace, whose offsets are set from outside as long as
// nobody is in it; then every process enters it. setns(2) allows that to
// processes with one thread, which they all are in that phase.
func Restore(ctx context.Context, req *sdk.RestoreRequest, saved Reading) error {
	if req.Enabled(hostClocks) {
		return nil
	}
	var pids []int
	for i := range req.Tree.Processes {
		if p := &req.Tree.Processes[i]; !p.Zombie {
			pids = append(pids, p.PID)
		}
	}
	if len(pids) == 0 {
		return nil
	}
	create := &tape.Tape{}
	create.Call(unix.SYS_UNSHARE, tape.Imm(unix.CLONE_NEWTIME))
	if err := run(ctx, req.Host, []tape.Run{{TID: pids[0], Tape: create}}); err != nil {
		return fmt.Errorf("create time namespace: %w", err)
	}
	if err := setOffsets(pids[0], saved); err != nil {
		return fmt.Errorf("set time offsets: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/time_for_children", pids[0]))
	if err != nil {
		return fmt.Errorf("open time namespace: %w", err)
	}
	defer ns.Close()
	runs := make([]tape.Run, len(pids))
	for i, pid := range pids {
		t := &tape.Tape{}
		fd := t.Call(unix.SYS_PIDFD_GETFD, tape.Imm(req.PluginFD), tape.Imm(int(ns.Fd())), tape.Imm(0))
		t.Call(unix.SYS_SETNS, fd.Arg(), tape.Imm(unix.CLONE_NEWTIME))
		t.Call(unix.SYS_CLOSE, fd.Arg())
		runs[i] = tape.Run{TID: pid, Tape: t}
	}
	if err := run(ctx, req.Host, runs); err != nil {
		return fmt.Errorf("enter time namespace: %w", err)
	}
	return nil
}

// setOffsets makes the clocks of a namespace go on from what was saved. The
// offsets are those to the machine's clocks, and count from now.
func setOffsets(pid int, saved Reading) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/timens_offsets", pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := machine()
	if err != nil {
		return err
	}
	_, err = f.WriteString(formatOffsets(saved.minus(now)))
	return err
}

func run(ctx context.Context, host sdk.Host, runs []tape.Run) error {
	outcomes, err := host.RunTapes(ctx, runs)
	if err != nil {
		return err
	}
	for i := range outcomes {
		if err := outcomes[i].Err; err != nil {
			return fmt.Errorf("task %d: %w", runs[i].TID, err)
		}
	}
	return nil
}
