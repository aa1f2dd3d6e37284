package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// inputLimit is how much may wait to be read on a slave in canonical mode. The line discipline
// holds 4095 bytes (N_TTY_BUF_SIZE); what is behind them was not looked at by
// it yet.
const inputLimit = 4000

// queues is what can be seen of what waits in a pseudo-terminal without
// changing anything.
type queues struct {
	output   int  // bytes to be read on the master, at least
	input    int  // bytes that a read of the slave gets; of whole lines in canonical mode
	lines    bool // complete ones wait, in canonical mode; or the mark of an end-of-file
	writable bool // the slave
}

// examineQueues reads what waits in a pseudo-terminal, of a tree that stands
// still. Nobody can look into the queues without taking out what is in them.
// So whatever cannot be excluded to wait there is taken out and put back, all by
// one tape: it runs to its end whatever happens to the host (see [queueTape]).
// The edit buffer of canonical mode cannot even be seen, so such a terminal is
// never left out.
func (s *survey) examineQueues(ctx context.Context, t *terminal) error {
	master, slave, err := s.openBoth(t)
	if err != nil {
		return err
	}
	defer unix.Close(master)
	defer unix.Close(slave)
	// A poll waits until the line discipline has got everything (n_tty_poll).
	if pollEvents(master, unix.POLLIN|unix.POLLPRI)&unix.POLLPRI != 0 {
		return s.refusePty(t, "a status of packet mode was not read yet", "")
	}
	canonical := t.pty.GetTermios().GetLflag()&unix.ICANON != 0
	events := pollEvents(slave, unix.POLLIN|unix.POLLOUT)
	q := queues{writable: events&unix.POLLOUT != 0, lines: canonical && events&unix.POLLIN != 0}
	if q.output, err = unix.IoctlGetInt(master, unix.TIOCINQ); err == nil {
		q.input, err = unix.IoctlGetInt(slave, unix.TIOCINQ)
	}
	if err != nil {
		return fmt.Errorf("FIONREAD: %w", err)
	}
	limit := inputLimit
	if !canonical {
		limit = rawLimit
	}
	switch {
	case q.input > limit:
		return s.refusePty(t, fmt.Sprintf("%d bytes of input wait to be read, more than %d", q.input, limit), "let the program read them")
	case q.output == 0 && !q.writable:
		return s.refusePty(t, "its output is stopped", "start it (Ctrl-Q)")
	case q.output == 0 && q.input == 0 && !canonical:
		return nil
	}
	return s.takeQueues(ctx, t, q, master, slave)
}

// openBoth returns both ends of a pseudo-terminal in this process.
func (s *survey) openBoth(t *terminal) (master, slave int, err error) {
	if master, err = s.access.Dup(t.master.res); err != nil {
		return -1, -1, err
	}
	if len(t.ends) > 0 {
		slave, err = s.access.Dup(t.ends[0].res)
	} else {
		slave, err = openPeer(master, unix.O_RDWR)
	}
	if err != nil {
		unix.Close(master)
		return -1, -1, err
	}
	return master, slave, nil
}

// openPeer opens the slave of a master, without blocking: TIOCGPTPEER, since
// Linux 4.13. It keeps what it is given among the status flags: O_LARGEFILE, which
// open(2) adds, must come from the caller, and O_CLOEXEC must not.
func openPeer(master int, flags uint32) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER,
		uintptr(flags|unix.O_NOCTTY|unix.O_NONBLOCK))
	if errno != 0 {
		return -1, fmt.Errorf("open slave: TIOCGPTPEER: %w", errno)
	}
	unix.CloseOnExec(int(fd))
	return int(fd), nil
}

// pollEvents returns the events that are there now.
func pollEvents(fd int, events int16) int16 {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	if _, err := unix.Poll(p, 0); err != nil {
		return 0
	}
	return p[0].Revents
}

// refusePty makes a pseudo-terminal one that blocks.
func (s *survey) refusePty(t *terminal, text, help string) error {
	t.pty = nil
	s.refuse(t.master, ptsPath(t.index)+": "+text, help)
	return nil
}

// takeQueues takes out what waits, and puts it back.
func (s *survey) takeQueues(ctx context.Context, t *terminal, q queues, master, slave int) error {
	p, masterFD, err := s.runner(t)
	if err != nil {
		return err
	}
	if p == nil {
		return s.refusePty(t, "what waits in it cannot be read by processes in its background", "")
	}
	free, err := lowestFree(p.PID)
	if err != nil {
		return err
	}
	qt := newQueueTape(t, masterFD, free, q)
	outcomes, err := s.sess.Host.RunTapes(ctx, qt.run(p.PID))
	if err != nil {
		return err
	}
	out := &outcomes[0]
	if _, err := out.Value(qt.peer); err != nil {
		if t.pty.GetLocked() {
			_ = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 1)
		}
		return s.refusePty(t, fmt.Sprintf("task %d cannot open it to see what waits there: %v", p.ID, err), "")
	}
	if out.Err != nil {
		return out.Err
	}
	output, whole := qt.output.read(out)
	input, _ := qt.input.read(out)
	m := t.pty
	m.Output = output
	stopped := false
	if n, err := out.Value(qt.writable); err == nil && n == 0 {
		stopped = true
	}
	if m.GetTermios().GetLflag()&unix.ICANON != 0 {
		m.Lines, m.Input = splitInput(m.GetTermios(), input, q.input)
	} else {
		m.Input = input
	}
	if !putBackExactly(m) {
		if err := refillInput(master, slave, m); err != nil {
			return err
		}
	}
	switch {
	case !whole:
		return s.refusePty(t, "more output than expected waits to be read", "")
	case stopped:
		_ = unix.IoctlSetInt(slave, unix.TCXONC, unix.TCOOFF)
		return s.refusePty(t, "its output is stopped", "start it (Ctrl-Q)")
	case len(input) > inputLimit:
		return s.refusePty(t, fmt.Sprintf("%d bytes of input wait to be read, more than %d", len(input), inputLimit), "let the program read them")
	}
	return nil
}

// runner finds a process that has the master and may use the slave, with the
// number of the master in it: job control keeps those in the background of
// the terminal from reading.
func (s *survey) runner(t *terminal) (*sdk.Process, int, error) {
	for _, ref := range t.master.file().Refs {
		p := s.sess.Tree.Process(ref.Task)
		if p == nil {
			continue
		}
		st, err := procfs.ThreadStat(p.PID, p.PID)
		if err != nil {
			return nil, 0, err
		}
		if st.TTY == 0 || kernelDevice(st.TTY) != t.dev || st.PGRP == st.TPGID {
			return p, ref.FD, nil
		}
	}
	return nil, 0, nil
}

// lowestFree is the number that the next file gets that a process opens.
func lowestFree(pid int) (int, error) {
	for fd := 0; ; fd++ {
		var st unix.Stat_t
		err := unix.Lstat("/proc/"+strconv.Itoa(pid)+"/fd/"+strconv.Itoa(fd), &st)
		if errors.Is(err, os.ErrNotExist) {
			return fd, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// splitInput takes input of canonical mode apart. The kernel counts what a
// read gets, complete, without the marks for VEOF, which are zeros in the
// queue (n_tty.c, inq_canon).
func splitInput(t *filespb.Termios, input []byte, complete int) (lines []*filespb.TtyLine, rest []byte) {
	end := min(complete, len(input))
	for marks := 0; ; {
		n := bytes.Count(input[:end], []byte{0})
		// A mark right behind the last line counts too.
		if end < len(input) && input[end] == 0 {
			n++
		}
		if n == marks || complete+n > len(input) {
			break
		}
		marks, end = n, complete+n
	}
	done, rest := input[:end], input[end:]
	for len(done) > 0 {
		n := slices.IndexFunc(done, func(c byte) bool { return c == 0 || endsLine(t, c) })
		switch {
		case n < 0:
			return append(lines, &filespb.TtyLine{Text: done, Eof: true}), rest
		case done[n] == 0:
			lines = append(lines, &filespb.TtyLine{Text: done[:n], Eof: true})
		default:
			lines = append(lines, &filespb.TtyLine{Text: done[:n+1]})
		}
		done = done[n+1:]
	}
	return lines, rest
}

// endsLine tells whether a character ends a line and is part of it.
func endsLine(t *filespb.Termios, c byte) bool {
	return c == '\n' || c != 0 && (c == t.GetCc()[unix.VEOL] || c == t.GetCc()[unix.VEOL2])
}
