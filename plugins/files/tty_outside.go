package files

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// examineOutside handles a terminal whose master is outside of the tree: that
// of an ssh connection, a window, a console.
func (s *survey) examineOutside(ts *terminalSurvey, t *terminal) error {
	if !s.sess.Enabled(shellJob) {
		for _, it := range t.ends {
			it.msg = nil
			s.report.Add(it.res, sdk.LevelFlag, it.file().Link+": a terminal whose other side is outside of the tree",
				"--shell-job leaves it behind; the tree gets the terminal of firn restore")
		}
		return nil
	}
	for _, other := range ts.list {
		if other.outside != nil {
			for _, it := range t.ends {
				s.refuse(it, fmt.Sprintf("%s: a second terminal outside of the tree, beside %s", it.file().Link, other.name()), "")
			}
			return nil
		}
	}
	fd, err := s.access.Dup(t.first().res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	m := &filespb.Terminal{Session: t.session}
	if m.Termios, m.Window, err = readTerminal(fd); err != nil {
		return err
	}
	for _, it := range t.ends {
		end := it.end()
		switch end.Kind {
		case filespb.TtyEnd_KIND_CURRENT:
			end.Kind = filespb.TtyEnd_KIND_OUTSIDE_CURRENT
		default:
			end.Kind = filespb.TtyEnd_KIND_OUTSIDE
		}
	}
	s.report.Note(t.first().res, t.name()+": is left behind; the tree gets the terminal of firn restore --shell-job")
	t.outside = m
	return nil
}

// findForeign refuses pseudo-terminals that processes outside of the tree have
// open or as controlling terminal. Like that of pipes, the search is done
// before the freeze, and in it only for what is new.
func (s *survey) findForeign(ts *terminalSurvey, known *outsiders) error {
	look := &terminalSearch{byIndex: map[int]*terminal{}, byDev: map[uint64]*terminal{}, found: map[*terminal]string{}, young: map[*terminal]bool{}}
	for _, t := range ts.list {
		if t.pty != nil && (known == nil || !known.ttys[t.dev]) {
			look.byIndex[t.index], look.byDev[t.dev] = t, t
		}
	}
	if len(look.byDev) == 0 {
		return nil
	}
	if err := eachOutside(s.sess.Tree, !s.frozen, look.process); err != nil {
		return err
	}
	for _, t := range look.byDev {
		who, held := look.found[t]
		switch {
		case held:
			t.pty = nil
			s.refuse(t.master, fmt.Sprintf("%s: %s, which is outside of the tree, uses it", ptsPath(t.index), who), "")
		case s.openedNever(t):
			t.pty = nil
		case known != nil && !look.young[t]:
			if known.ttys == nil {
				known.ttys = map[uint64]bool{}
			}
			known.ttys[t.dev] = true
		}
	}
	return nil
}

// openedNever refuses a master whose slave nobody has opened yet: what waits in
// it cannot be seen without opening the slave, which the master would notice.
func (s *survey) openedNever(t *terminal) bool {
	if len(t.ends) > 0 {
		return false
	}
	fd, err := s.access.Dup(t.master.res)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	if pollEvents(fd, 0)&unix.POLLHUP != 0 {
		return false
	}
	s.refuse(t.master, t.master.file().Link+": its slave "+ptsPath(t.index)+" was never opened", "checkpoint when the program has started its session")
	return true
}

// terminalSearch looks for terminals in other processes.
type terminalSearch struct {
	byIndex map[int]*terminal
	byDev   map[uint64]*terminal
	found   map[*terminal]string
	// young are those that processes of the tree have which it does not list:
	// they may leave it until the freeze.
	young map[*terminal]bool
	buf   [4096]byte
}

// process looks through one process. What ended meanwhile or cannot be looked
// into has nothing to tell.
func (l *terminalSearch) process(pid string, ours func() bool) {
	before := len(l.found)
	l.search(pid)
	if len(l.found) > before && ours() {
		for t, who := range l.found {
			if who == l.who(pid) {
				delete(l.found, t)
				l.young[t] = true
			}
		}
	}
}

func (l *terminalSearch) search(pid string) {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return
	}
	st, err := procfs.Stat(n)
	if err != nil {
		return
	}
	if t := l.byDev[kernelDevice(st.TTY)]; st.TTY != 0 && t != nil {
		l.hold(t, pid)
	}
	dir, err := os.Open("/proc/" + pid + "/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	fds, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, fd := range fds {
		n, err := unix.Readlinkat(int(dir.Fd()), fd, l.buf[:])
		if err != nil {
			continue
		}
		link := string(l.buf[:n])
		if strings.HasPrefix(link, "/dev/pt") || strings.HasSuffix(link, "/ptmx") {
			l.descriptor(int(dir.Fd()), pid, fd)
		}
	}
}

// descriptor looks at a descriptor that is one of some pseudo-terminal.
func (l *terminalSearch) descriptor(dir int, pid, fd string) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, fd, &st, 0); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return
	}
	if !isMaster(st.Rdev) {
		if t := l.byDev[st.Rdev]; t != nil {
			l.hold(t, pid)
		}
		return
	}
	b, err := os.ReadFile("/proc/" + pid + "/fdinfo/" + fd)
	if err != nil {
		return
	}
	info, err := procfs.ParseFDInfo(b)
	if err != nil || info.TTYIndex == nil {
		return
	}
	if t := l.byIndex[*info.TTYIndex]; t != nil {
		l.hold(t, pid)
	}
}

func (l *terminalSearch) hold(t *terminal, pid string) {
	if _, ok := l.found[t]; !ok {
		l.found[t] = l.who(pid)
	}
}

func (l *terminalSearch) who(pid string) string { return fmt.Sprintf("task %s (%s)", pid, comm(pid)) }
