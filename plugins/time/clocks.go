package time

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/time/timepb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// Dump implements [sdk.Dumper]: it saves the clocks as the tree sees them.
func (*plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	now, err := machine()
	if err != nil {
		return err
	}
	shift, err := offsetsOf(strconv.Itoa(req.Tree.Processes[0].PID))
	if err != nil {
		return fmt.Errorf("time namespace of task %d: %w", req.Tree.Root, err)
	}
	c := now.plus(shift)
	return req.Records.Emit(ctx, kindClocks, 0, &timepb.Clocks{MonotonicNs: c.monotonic, BoottimeNs: c.boottime})
}

// load reads the record; without one the image says nothing of clocks.
func load(records sdk.Records) (c clocks, ok bool, err error) {
	for r, err := range records.Object(0) {
		if err != nil {
			return c, false, err
		}
		if r.Kind != kindClocks {
			continue
		}
		m := &timepb.Clocks{}
		if err := r.Decode(m); err != nil {
			return c, false, err
		}
		if m.MonotonicNs < 0 || m.BoottimeNs < 0 {
			return c, false, &sdk.CorruptError{What: "clocks", Kind: r.Kind, Err: fmt.Errorf("%d and %d", m.MonotonicNs, m.BoottimeNs)}
		}
		return clocks{m.MonotonicNs, m.BoottimeNs}, true, nil
	}
	return c, false, nil
}

// RestoreNamespaces implements [sdk.NamespaceRestorer]. The first process makes
// a namespace, whose offsets are set from outside as long as nobody is in it;
// then every process enters it. setns(2) allows that to processes with one
// thread, which they all are now.
func (*plugin) RestoreNamespaces(ctx context.Context, req *sdk.RestoreRequest) error {
	if req.Enabled(hostClocks) {
		return nil
	}
	saved, ok, err := load(req.Records)
	if err != nil || !ok {
		return err
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
		return err
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
func setOffsets(pid int, saved clocks) error {
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
