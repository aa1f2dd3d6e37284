package files

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// shellJob is the flag by which a tree leaves its terminal behind, and gets
// that of the restorer.
const shellJob = "shell-job"

// Device numbers of terminals: Documentation/admin-guide/devices.txt.
const (
	ttyMajor    = 4 // virtual consoles and serial lines
	ttyAuxMajor = 5
	ptsMajor    = 136 // of the first of eight majors
	ptsMajors   = 8
)

// Minors of ttyAuxMajor.
const (
	minorCurrent = 0 // /dev/tty
	minorConsole = 1
	minorMaster  = 2 // /dev/ptmx
)

// terminalClaims are the devices that are terminals.
func terminalClaims() []sdk.Claim {
	claim := func(major, minor int) sdk.Claim {
		return sdk.Claim{Kind: sdk.KindFile, Type: sdk.TypeChar, Device: &sdk.Device{Major: major, Minor: minor}}
	}
	claims := []sdk.Claim{
		claim(ttyMajor, sdk.Any), claim(ttyAuxMajor, minorCurrent), claim(ttyAuxMajor, minorConsole), claim(ttyAuxMajor, minorMaster),
	}
	for i := range ptsMajors {
		claims = append(claims, claim(ptsMajor+i, sdk.Any))
	}
	return claims
}

func isMaster(rdev uint64) bool  { return rdev == unix.Mkdev(ttyAuxMajor, minorMaster) }
func isCurrent(rdev uint64) bool { return rdev == unix.Mkdev(ttyAuxMajor, minorCurrent) }

func isTerminal(rdev uint64) bool {
	major, minor := unix.Major(rdev), unix.Minor(rdev)
	return major == ttyMajor || major >= ptsMajor && major < ptsMajor+ptsMajors ||
		major == ttyAuxMajor && minor <= minorMaster
}

func ptsPath(index int) string { return fmt.Sprintf("%s/%d", devpts, index) }

const devpts = "/dev/pts"

// terminal is one terminal of a survey.
type terminal struct {
	dev   uint64 // device number, of the slave if it is a pty
	index int    // N of /dev/pts/N; only with a master
	// master is nil if that is outside of the tree.
	master *item
	// ends are slaves, and files that were opened as /dev/tty.
	ends    []*item
	session *filespb.TtySession
	// pty and outside: one of them is set once the terminal was looked at.
	pty     *filespb.Pty
	outside *filespb.Terminal
}

// first is the file about which findings are.
func (t *terminal) first() *item {
	if t.master != nil {
		return t.master
	}
	return t.ends[0]
}

func (t *terminal) name() string {
	if t.master != nil {
		return ptsPath(t.index)
	}
	return t.first().file().Link
}

// terminalSurvey is what a survey knows of terminals.
type terminalSurvey struct {
	list  []*terminal
	byDev map[uint64]*terminal
}

func (ts *terminalSurvey) get(dev uint64) *terminal {
	t := ts.byDev[dev]
	if t == nil {
		t = &terminal{dev: dev}
		ts.byDev[dev] = t
		ts.list = append(ts.list, t)
	}
	return t
}

// examineTerminals looks at all terminals. Both ends belong together, and a
// session to its terminal, so it comes after everything else.
func (s *survey) examineTerminals(ctx context.Context, known *outsiders) error {
	ts := &terminalSurvey{byDev: map[uint64]*terminal{}}
	for i := range s.items {
		it := &s.items[i]
		if f := it.file(); f.Type != sdk.TypeChar || f.Flags&unix.O_PATH != 0 || !isTerminal(f.Rdev) {
			continue
		}
		if it.msg != nil {
			continue // is left outside
		}
		if err := s.examineEnd(ts, it); err != nil && !s.gone(err) {
			return fmt.Errorf("examine %s: %w", it.file().Link, err)
		}
	}
	if err := s.examineSessions(ts); err != nil {
		return err
	}
	for _, t := range ts.list {
		var err error
		if t.master == nil {
			err = s.examineOutside(ts, t)
		} else {
			err = s.examinePty(t)
		}
		if err != nil && !s.gone(err) {
			return fmt.Errorf("examine %s: %w", t.name(), err)
		}
	}
	if err := s.findForeign(ts, known); err != nil {
		return err
	}
	for _, t := range ts.list {
		if t.pty != nil && s.frozen {
			if err := s.examineQueues(ctx, t); err != nil {
				return fmt.Errorf("examine what waits in %s: %w", t.name(), err)
			}
		}
	}
	s.terminals = ts
	return nil
}

// examineEnd finds out which terminal a file is an end of.
func (s *survey) examineEnd(ts *terminalSurvey, it *item) error {
	f := it.file()
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	end := &filespb.TtyEnd{Description: d, Path: []byte(f.Link)}
	dev, err := unix.IoctlGetInt(fd, unix.TIOCGDEV)
	switch {
	case errors.Is(err, unix.EIO): // hung_up_tty_ioctl, drivers/tty/tty_io.c
		end.Kind = filespb.TtyEnd_KIND_HUNG_UP
		it.kind, it.msg = kindTtyEnd, end
		return nil
	case err != nil:
		return fmt.Errorf("TIOCGDEV: %w", err)
	}
	t := ts.get(kernelDevice(uint32(dev)))
	if !isMaster(f.Rdev) {
		end.Kind = filespb.TtyEnd_KIND_SLAVE
		if isCurrent(f.Rdev) {
			end.Kind = filespb.TtyEnd_KIND_CURRENT
		}
		t.ends = append(t.ends, it)
	} else {
		end.Kind = filespb.TtyEnd_KIND_MASTER
		if t.master != nil {
			s.block(it, fmt.Sprintf("%s: has the number %d in another devpts than %s", f.Link, t.index, t.master.file().Subject()), "")
			return nil
		}
		if t.index, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			return fmt.Errorf("TIOCGPTN: %w", err)
		}
		t.master = it
	}
	it.kind, it.msg = kindTtyEnd, end
	return nil
}

// kernelDevice is the device number that the kernel encodes as new_encode_dev
// does (linux/kdev_t.h): minor bits 0-7 and 20-31, major bits 8-19.
func kernelDevice(v uint32) uint64 {
	return unix.Mkdev(v>>8&0xfff, v&0xff|v>>12&0xfff00)
}

// end is the record of a file that is an end of a terminal.
func (it *item) end() *filespb.TtyEnd { m, _ := it.msg.(*filespb.TtyEnd); return m }

// refuse makes a file that was looked at one that blocks.
func (s *survey) refuse(it *item, text, help string) {
	it.msg = nil
	s.block(it, text, help)
}

// examineSessions finds the sessions that have a terminal as controlling
// terminal.
func (s *survey) examineSessions(ts *terminalSurvey) error {
	for i := range s.sess.Tree.Processes {
		p := &s.sess.Tree.Processes[i]
		if p.Zombie {
			continue
		}
		st, err := procfs.ThreadStat(p.PID, p.PID)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // ended meanwhile; cannot happen to a frozen task
		}
		if err != nil {
			return err
		}
		if st.TTY == 0 {
			continue
		}
		t := ts.byDev[kernelDevice(st.TTY)]
		if t == nil || t.session != nil {
			continue // the plugin for tasks tells of terminals that nobody has open
		}
		t.session = &filespb.TtySession{}
		if s.sess.Tree.Process(p.SID) != nil {
			t.session.Leader = uint32(p.SID)
		}
		if inTree(s.sess.Tree, sdk.TaskID(st.TPGID)) {
			t.session.Foreground = uint32(max(st.TPGID, 0))
		}
	}
	return nil
}
