package files

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/tape"
)

// attachSession makes a new pseudo-terminal the controlling terminal of its
// session, which only the leader can do, and makes the descriptions that were
// opened as /dev/tty: only a process of the session gets the terminal by that
// name. So the leader opens them, and they are taken from it.
func (r *restore) attachSession(ctx context.Context, ts *terminalSet, p *openPty, m *filespb.Pty) error {
	var current []record[*filespb.TtyEnd]
	for _, e := range ts.ends {
		if e.msg.GetKind() == filespb.TtyEnd_KIND_CURRENT && e.msg.GetIndex() == m.GetIndex() {
			current = append(current, e)
		}
	}
	if m.GetSession() == nil {
		if len(current) > 0 {
			return fmt.Errorf("/dev/tty without a session: %w", sdk.ErrCorrupt)
		}
		return nil
	}
	leader, err := r.leader(m.GetSession())
	if err != nil {
		return err
	}
	t := &tape.Tape{}
	slave := takeTerminal(t, r.req.PluginFD, p.slave, m.GetSession(), 0)
	path := t.String("/dev/tty")
	var opened []tape.Result
	for _, e := range current {
		mode := e.msg.GetDescription().GetFlags() & unix.O_ACCMODE
		opened = append(opened, t.Call(unix.SYS_OPENAT, tape.Imm(unix.AT_FDCWD), path.Arg(),
			tape.Imm(mode|unix.O_NONBLOCK|unix.O_CLOEXEC)))
	}
	t.Call(unix.SYS_CLOSE, slave.Arg())
	out, err := r.runTape(ctx, leader, t)
	if err != nil || len(current) == 0 {
		return err
	}
	closing := &tape.Tape{}
	pull := &kern.Descriptors{}
	defer pull.Close()
	for i, e := range current {
		number, err := out.Value(opened[i])
		if err != nil {
			return err
		}
		fd, err := pull.Get(int(number), leader.PID)
		if err != nil {
			return fmt.Errorf("take /dev/tty from task %d: %w", leader.ID, err)
		}
		if err := openfile.SetFlags(fd, e.msg.GetDescription().GetFlags()); err != nil {
			unix.Close(fd)
			return err
		}
		if err := r.provide(e.object, fd); err != nil {
			return err
		}
		closing.Call(unix.SYS_CLOSE, tape.Imm(number))
	}
	_, err = r.runTape(ctx, leader, closing)
	return err
}

// leader is the process that leads a session.
func (r *restore) leader(s *filespb.TtySession) (*sdk.Process, error) {
	p := r.req.Tree.Process(sdk.TaskID(s.GetLeader()))
	if p == nil || p.Zombie || p.SID != p.ID {
		return nil, fmt.Errorf("task %d leads no session: %w", s.GetLeader(), sdk.ErrCorrupt)
	}
	return p, nil
}

// takeTerminal appends what makes a terminal, a descriptor of this process, the
// controlling one of the session whose leader runs the tape; force takes it
// away from the session that has it. The result is the descriptor in the task.
func takeTerminal(t *tape.Tape, pluginFD, fd int, s *filespb.TtySession, force int) tape.Result {
	tty := t.Call(unix.SYS_PIDFD_GETFD, tape.Imm(pluginFD), tape.Imm(fd), tape.Imm(0))
	t.Call(unix.SYS_IOCTL, tty.Arg(), tape.Imm(unix.TIOCSCTTY), tape.Imm(force))
	setForeground(t, tty, s)
	return tty
}

// setForeground appends what makes a process group the one in the foreground.
// Signals are blocked in tapes, so job control does not stop the task.
func setForeground(t *tape.Tape, tty tape.Result, s *filespb.TtySession) {
	if s.GetForeground() == 0 {
		return
	}
	group := t.Bytes(binary.NativeEndian.AppendUint32(nil, s.GetForeground()))
	t.Call(unix.SYS_IOCTL, tty.Arg(), tape.Imm(unix.TIOCSPGRP), group.Arg())
}

// runTape runs one tape.
func (r *restore) runTape(ctx context.Context, p *sdk.Process, t *tape.Tape) (*tape.Outcome, error) {
	return runTape(ctx, r.req.Host, p, t)
}

func runTape(ctx context.Context, host sdk.Host, p *sdk.Process, t *tape.Tape) (*tape.Outcome, error) {
	outcomes, err := host.RunTapes(ctx, []tape.Run{{TID: p.PID, Tape: t}})
	if err == nil {
		err = outcomes[0].Err
	}
	if err != nil {
		return nil, fmt.Errorf("controlling terminal of task %d: %w", p.ID, err)
	}
	return &outcomes[0], nil
}
