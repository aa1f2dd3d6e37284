package files

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// terminalSet is what the records of an image say of terminals.
type terminalSet struct {
	ptys    []*filespb.Pty
	byIndex map[uint32]*filespb.Pty
	ends    []record[*filespb.TtyEnd]
	outside *filespb.Terminal
}

// addTerminal takes a record about terminals.
func (im *image) addTerminal(r sdk.Record) error {
	corrupt := func(format string, args ...any) error {
		return &sdk.CorruptError{What: "record", Kind: r.Kind, Object: r.Object, Err: fmt.Errorf(format, args...)}
	}
	ts := &im.terminals
	switch r.Kind {
	case kindPty:
		m := &filespb.Pty{}
		if err := r.Decode(m); err != nil {
			return err
		}
		if m.GetIndex() > maxIndex || len(m.GetTermios().GetCc()) != len(unix.Termios{}.Cc) {
			return corrupt("pseudo-terminal %d with %d control characters", m.GetIndex(), len(m.GetTermios().GetCc()))
		}
		if len(m.GetOutput()) > outputReads*readSize || inputSize(m) > inputLimit+1 {
			return corrupt("pseudo-terminal %d holds more than one can", m.GetIndex())
		}
		if ts.byIndex[m.GetIndex()] != nil {
			return corrupt("second pseudo-terminal %d", m.GetIndex())
		}
		if ts.byIndex == nil {
			ts.byIndex = map[uint32]*filespb.Pty{}
		}
		ts.byIndex[m.GetIndex()] = m
		ts.ptys = append(ts.ptys, m)
	case kindTerminal:
		m := &filespb.Terminal{}
		if err := r.Decode(m); err != nil {
			return err
		}
		if ts.outside != nil || len(m.GetTermios().GetCc()) != len(unix.Termios{}.Cc) {
			return corrupt("terminal outside of the tree")
		}
		ts.outside = m
	case kindTtyEnd:
		m := &filespb.TtyEnd{}
		if err := r.Decode(m); err != nil {
			return err
		}
		switch m.GetKind() {
		case filespb.TtyEnd_KIND_MASTER, filespb.TtyEnd_KIND_SLAVE, filespb.TtyEnd_KIND_CURRENT:
			if ts.byIndex[m.GetIndex()] == nil {
				return corrupt("no pseudo-terminal %d", m.GetIndex())
			}
		case filespb.TtyEnd_KIND_OUTSIDE, filespb.TtyEnd_KIND_OUTSIDE_CURRENT:
			if ts.outside == nil {
				return corrupt("no terminal outside of the tree")
			}
		case filespb.TtyEnd_KIND_HUNG_UP:
		default:
			return corrupt("end of kind %d", m.GetKind())
		}
		ts.ends = append(ts.ends, record[*filespb.TtyEnd]{object: r.Object, msg: m})
		im.state(r.Object, m.GetDescription())
	}
	return nil
}

// maxIndex is more than a devpts numbers (NR_UNIX98_PTY_MAX, linux/tty.h).
const maxIndex = 1<<20 - 1

// inputSize is the number of bytes and marks in the queue of a slave.
func inputSize(m *filespb.Pty) int {
	n := len(m.GetInput())
	for _, l := range m.GetLines() {
		if n += len(l.GetText()); l.GetEof() {
			n++
		}
	}
	return n
}

// openPty is a pseudo-terminal while its ends are made.
type openPty struct {
	master, slave int
	// shared is set when the master was handed over.
	shared bool
}

func (p *openPty) close() {
	if !p.shared {
		unix.Close(p.master)
	}
	unix.Close(p.slave)
}

// restoreTerminals makes all terminals and hands their ends over.
func (r *restore) restoreTerminals(ctx context.Context, ts *terminalSet) error {
	ptys, err := makePtys(ts.ptys)
	defer func() {
		for _, p := range ptys {
			p.close()
		}
	}()
	if err != nil {
		return err
	}
	for _, m := range ts.ptys {
		if err := fillPty(ptys[m.GetIndex()], m); err != nil {
			return fmt.Errorf("restore %s: %w", ptsPath(int(m.GetIndex())), err)
		}
	}
	for _, m := range ts.ptys {
		if err := r.attachSession(ctx, ts, ptys[m.GetIndex()], m); err != nil {
			return fmt.Errorf("restore %s: %w", ptsPath(int(m.GetIndex())), err)
		}
	}
	for _, e := range ts.ends {
		if e.msg.GetKind() == filespb.TtyEnd_KIND_CURRENT {
			continue // attachSession made it
		}
		var fd int
		if n, ok := r.inherited[e.object]; ok && e.msg.GetKind() != filespb.TtyEnd_KIND_MASTER {
			fd, err = openInherited(n, e.msg.GetDescription().GetFlags())
		} else {
			fd, err = r.openEnd(e.msg, ptys[e.msg.GetIndex()])
		}
		if err != nil {
			return fmt.Errorf("restore object %d (%s): %w", e.object, e.msg.GetPath(), err)
		}
		if err := r.provide(e.object, fd); err != nil {
			return err
		}
	}
	for _, m := range ts.ptys {
		if err := finishPty(ptys[m.GetIndex()], m); err != nil {
			return fmt.Errorf("restore %s: %w", ptsPath(int(m.GetIndex())), err)
		}
	}
	return nil
}

// makePtys opens masters until all have come up with their numbers: the kernel
// gives the lowest that is free.
func makePtys(list []*filespb.Pty) (map[uint32]*openPty, error) {
	made := map[uint32]*openPty{}
	want := map[uint32]bool{}
	highest := -1
	for _, m := range list {
		want[m.GetIndex()] = true
		highest = max(highest, int(m.GetIndex()))
	}
	var others []int
	defer func() {
		for _, fd := range others {
			unix.Close(fd)
		}
	}()
	for len(made) < len(want) {
		fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return made, fmt.Errorf("open /dev/ptmx: %w", err)
		}
		others = append(others, fd)
		index, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		if err != nil {
			return made, fmt.Errorf("/dev/ptmx: TIOCGPTN: %w", err)
		}
		if index > highest {
			return made, fmt.Errorf("a number of the pseudo-terminals was taken meanwhile: %w", unix.EBUSY)
		}
		if !want[uint32(index)] {
			continue
		}
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return made, fmt.Errorf("%s: TIOCSPTLCK: %w", ptsPath(index), err)
		}
		slave, err := openPeer(fd, unix.O_RDWR)
		if err != nil {
			return made, fmt.Errorf("%s: %w", ptsPath(index), err)
		}
		others = others[:len(others)-1]
		made[uint32(index)] = &openPty{master: fd, slave: slave}
	}
	return made, nil
}

// fillPty gives a new pseudo-terminal what its ends share.
func fillPty(p *openPty, m *filespb.Pty) error {
	if err := unix.Fchown(p.slave, int(m.GetUid()), int(m.GetGid())); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Fchmod(p.slave, m.GetMode()); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if err := unix.IoctlSetWinsize(p.master, unix.TIOCSWINSZ, winsize(m.GetWindow())); err != nil {
		return fmt.Errorf("TIOCSWINSZ: %w", err)
	}
	if err := setMode(p.master, neutral(m.GetTermios(), 0)); err != nil {
		return err
	}
	if err := feedOutput(p.slave, m); err != nil {
		return err
	}
	if err := feedInput(p.master, p.slave, m); err != nil {
		return err
	}
	return setMode(p.master, termios(m.GetTermios()))
}

// finishPty sets what would have been in the way of opening the ends.
func finishPty(p *openPty, m *filespb.Pty) error {
	for _, state := range []struct {
		on      bool
		fd      int
		request uint
		name    string
	}{
		{m.GetPacket(), p.master, unix.TIOCPKT, "TIOCPKT"},
		{m.GetExclusive(), p.slave, unix.TIOCEXCL, "TIOCEXCL"},
		{m.GetMasterExclusive(), p.master, unix.TIOCEXCL, "TIOCEXCL"},
		{m.GetLocked(), p.master, unix.TIOCSPTLCK, "TIOCSPTLCK"},
	} {
		if !state.on {
			continue
		}
		if err := unix.IoctlSetPointerInt(state.fd, state.request, 1); err != nil {
			return fmt.Errorf("%s: %w", state.name, err)
		}
	}
	return nil
}

// openEnd makes the description of an end.
func (r *restore) openEnd(e *filespb.TtyEnd, p *openPty) (fd int, err error) {
	flags := e.GetDescription().GetFlags()
	switch e.GetKind() {
	case filespb.TtyEnd_KIND_MASTER:
		if p.shared {
			return -1, fmt.Errorf("second master of a pseudo-terminal: %w", sdk.ErrCorrupt)
		}
		fd, p.shared = p.master, true
	case filespb.TtyEnd_KIND_SLAVE:
		fd, err = openPeer(p.master, flags&^notReopened)
	case filespb.TtyEnd_KIND_HUNG_UP:
		fd, err = openHungUp(flags &^ notReopened)
	default:
		return r.openOutside(e)
	}
	if err != nil {
		return -1, err
	}
	if err := openfile.SetFlags(fd, flags); err != nil {
		if e.GetKind() != filespb.TtyEnd_KIND_MASTER {
			unix.Close(fd)
		}
		return -1, err
	}
	return fd, nil
}

// openHungUp returns a slave whose master has been closed.
func openHungUp(flags uint32) (int, error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, fmt.Errorf("TIOCSPTLCK: %w", err)
	}
	return openPeer(master, flags)
}

// checkIndexes tells which numbers of pseudo-terminals are in use.
func (ts *terminalSet) check(c *imageCheck, req *sdk.RestoreRequest) {
	for _, m := range ts.ptys {
		var st unix.Stat_t
		if unix.Stat(ptsPath(int(m.GetIndex())), &st) != nil {
			continue
		}
		at := slices.IndexFunc(ts.ends, func(e record[*filespb.TtyEnd]) bool {
			return e.msg.GetKind() == filespb.TtyEnd_KIND_MASTER && e.msg.GetIndex() == m.GetIndex()
		})
		object := uint64(0)
		if at >= 0 {
			object = ts.ends[at].object
		}
		c.add(object)(sdk.LevelBlock, ptsPath(int(m.GetIndex()))+": is in use", "end what uses it")
	}
	ts.checkOutside(c, req)
}
