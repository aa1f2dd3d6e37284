package files

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

// examinePty reads the state of a pseudo-terminal whose master is in the tree.
// TCGETS2 and TIOCGWINSZ on a master are about the slave (drivers/tty/pty.c,
// drivers/tty/tty_ioctl.c).
func (s *survey) examinePty(t *terminal) error {
	fd, err := s.access.Dup(t.master.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	m := &filespb.Pty{Index: uint32(t.index), Session: t.session}
	if m.Termios, m.Window, err = readTerminal(fd); err != nil {
		return err
	}
	for _, state := range []struct {
		request uint
		to      *bool
	}{{unix.TIOCGPKT, &m.Packet}, {unix.TIOCGPTLCK, &m.Locked}, {unix.TIOCGEXCL, &m.MasterExclusive}} {
		v, err := unix.IoctlGetInt(fd, state.request)
		if err != nil {
			return fmt.Errorf("ioctl %#x: %w", state.request, err)
		}
		*state.to = v != 0
	}
	if t.master.file().Flags&unix.O_ACCMODE != unix.O_RDWR {
		s.refuse(t.master, t.master.file().Link+": a master that is not open for reading and writing is not carried", "")
		return nil
	}
	if m.GetTermios().GetLflag()&unix.EXTPROC != 0 {
		s.refuse(t.master, ptsPath(t.index)+": external processing (EXTPROC) is not carried", "")
		return nil
	}
	if m.GetTermios().GetLine() != nTTY {
		s.refuse(t.master, fmt.Sprintf("%s: line discipline %d is not carried", ptsPath(t.index), m.GetTermios().GetLine()), "")
		return nil
	}
	if ok, err := s.examineNode(t, m); err != nil || !ok {
		return err
	}
	for _, it := range t.ends {
		end := it.end()
		end.Index = m.Index
		if end.Kind == filespb.TtyEnd_KIND_CURRENT {
			if end.Leader = t.session.GetLeader(); end.Leader == 0 {
				s.refuse(it, it.file().Link+": is the controlling terminal of no session any more", "")
			}
		}
		if err := s.slaveExclusive(it, m); err != nil {
			return err
		}
	}
	t.master.end().Index = m.Index
	if leader := t.session.GetLeader(); t.session != nil && leader == 0 {
		s.refuse(t.master, ptsPath(t.index)+": is the controlling terminal of a session whose leader is outside of the tree", "checkpoint the leader")
		return nil
	}
	t.pty = m
	return nil
}

// nTTY is the number of the usual line discipline (linux/tty.h, N_TTY).
const nTTY = 0

// slaveExclusive reads TIOCEXCL of a slave.
func (s *survey) slaveExclusive(it *item, m *filespb.Pty) error {
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	v, err := unix.IoctlGetInt(fd, unix.TIOCGEXCL)
	if err != nil {
		return fmt.Errorf("TIOCGEXCL: %w", err)
	}
	m.Exclusive = v != 0
	return nil
}

// examineNode reads owner and mode of the slave's node, and makes sure that it
// is one of the devpts that everybody means by /dev/pts.
func (s *survey) examineNode(t *terminal, m *filespb.Pty) (bool, error) {
	var root, st unix.Stat_t
	if err := unix.Stat(devpts, &root); err != nil {
		return false, err
	}
	err := unix.Stat(ptsPath(t.index), &st)
	if errors.Is(err, unix.ENOENT) {
		s.refuse(t.master, t.master.file().Link+": belongs to another devpts than /dev/pts", "")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, it := range t.ends {
		if f := it.file(); !isCurrent(f.Rdev) && (f.Dev != root.Dev || f.Ino != st.Ino) {
			s.refuse(it, f.Link+": belongs to another devpts than /dev/pts", "")
			return false, nil
		}
	}
	m.Mode, m.Uid, m.Gid = st.Mode&^unix.S_IFMT, st.Uid, st.Gid
	return true, nil
}

// readTerminal reads what every terminal has.
func readTerminal(fd int) (*filespb.Termios, *filespb.WindowSize, error) {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return nil, nil, fmt.Errorf("TCGETS2: %w", err)
	}
	w, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return nil, nil, fmt.Errorf("TIOCGWINSZ: %w", err)
	}
	return &filespb.Termios{
			Iflag: t.Iflag, Oflag: t.Oflag, Cflag: t.Cflag, Lflag: t.Lflag, Line: uint32(t.Line), Cc: t.Cc[:],
			Ispeed: t.Ispeed, Ospeed: t.Ospeed,
		}, &filespb.WindowSize{
			Rows: uint32(w.Row), Columns: uint32(w.Col), Xpixels: uint32(w.Xpixel), Ypixels: uint32(w.Ypixel),
		}, nil
}

// termios is the kernel's form of what was saved.
func termios(m *filespb.Termios) *unix.Termios {
	t := &unix.Termios{
		Iflag: m.GetIflag(), Oflag: m.GetOflag(), Cflag: m.GetCflag(), Lflag: m.GetLflag(), Line: uint8(m.GetLine()),
		Ispeed: m.GetIspeed(), Ospeed: m.GetOspeed(),
	}
	copy(t.Cc[:], m.GetCc())
	return t
}

func winsize(m *filespb.WindowSize) *unix.Winsize {
	return &unix.Winsize{
		Row: uint16(m.GetRows()), Col: uint16(m.GetColumns()), Xpixel: uint16(m.GetXpixels()), Ypixel: uint16(m.GetYpixels()),
	}
}

// dumpTerminals emits what the ends of terminals share, which precedes them.
func (s *survey) dumpTerminals(ctx context.Context, records sdk.Emitter) error {
	for _, t := range s.terminals.list {
		var err error
		switch {
		case t.pty != nil:
			err = records.Emit(ctx, kindPty, t.master.res.Object, t.pty)
		case t.outside != nil:
			err = records.Emit(ctx, kindTerminal, t.first().res.Object, t.outside)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
