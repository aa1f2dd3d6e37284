package files

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/tape"
)

// checkOutside tells whether there is a terminal for a tree that left its own
// behind.
func (ts *terminalSet) checkOutside(c *imageCheck, req *sdk.RestoreRequest) {
	if ts.outside == nil {
		return
	}
	object := uint64(0)
	name := "terminal"
	for _, e := range ts.ends {
		if k := e.msg.GetKind(); k == filespb.TtyEnd_KIND_OUTSIDE || k == filespb.TtyEnd_KIND_OUTSIDE_CURRENT {
			object, name = e.object, string(e.msg.GetPath())
			break
		}
	}
	if !req.Enabled(shellJob) {
		c.add(object)(sdk.LevelFlag, name+": the tree left its terminal behind", "--shell-job gives it that of firn restore")
		return
	}
	fd, err := openJobTerminal(unix.O_RDWR)
	if err != nil {
		c.add(object)(sdk.LevelBlock, fmt.Sprintf("%s: firn restore has no terminal to give to the tree: %v", name, err),
			"run it on a terminal, or with one as standard input")
		return
	}
	unix.Close(fd)
}

// openJobTerminal opens the terminal on which the host runs: its standard
// input, output or error, or else its controlling terminal, which is that of
// this process, too.
func openJobTerminal(mode uint32) (int, error) {
	flags := int(mode) | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_CLOEXEC
	for number := range 3 {
		if fd, err := reopenHost(number, flags); err == nil {
			return fd, nil
		}
	}
	fd, err := unix.Open("/dev/tty", flags, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/tty: %w", err)
	}
	return fd, nil
}

// reopenHost opens a terminal of the host again, which has it under a number.
func reopenHost(number, flags int) (int, error) {
	fd, err := openfile.OfHost(number)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || !isTerminal(st.Rdev) || isMaster(st.Rdev) {
		return -1, unix.ENOTTY
	}
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
}

// openOutside opens the terminal of the host in place of one that was left
// behind.
func (r *restore) openOutside(e *filespb.TtyEnd) (fd int, err error) {
	flags := e.GetDescription().GetFlags()
	if e.GetKind() == filespb.TtyEnd_KIND_OUTSIDE_CURRENT {
		fd, err = unix.Open("/dev/tty", int(flags&unix.O_ACCMODE)|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	if e.GetKind() == filespb.TtyEnd_KIND_OUTSIDE || err != nil {
		fd, err = openJobTerminal(flags & unix.O_ACCMODE)
	}
	if err != nil {
		return -1, err
	}
	if err := openfile.SetFlags(fd, flags); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// RestoreTasks implements [sdk.TaskRestorer]: the terminal of the host becomes
// that of the tree. It is late, for the host loses it if the tree has a session
// of its own, and a session that ends hangs up its terminal.
func (p *plugin) RestoreTasks(ctx context.Context, req *sdk.RestoreRequest) error {
	im, err := readImage(req.Records)
	if err != nil {
		return err
	}
	m := im.terminals.outside
	if m == nil {
		return nil
	}
	fd := p.outsideFD(&im.terminals)
	if fd < 0 {
		return fmt.Errorf("nothing of the tree's terminal was restored: %w", sdk.ErrCorrupt)
	}
	now, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return fmt.Errorf("TIOCGWINSZ: %w", err)
	}
	t := &tape.Tape{}
	task := req.Tree.Process(req.Tree.Root)
	var tty tape.Result
	if leader := m.GetSession().GetLeader(); leader != 0 {
		if task = req.Tree.Process(sdk.TaskID(leader)); task == nil || task.Zombie {
			return fmt.Errorf("task %d leads no session: %w", leader, sdk.ErrCorrupt)
		}
		tty = takeTerminal(t, req.PluginFD, fd, m.GetSession(), 1)
	} else {
		tty = t.Call(unix.SYS_PIDFD_GETFD, tape.Imm(req.PluginFD), tape.Imm(fd), tape.Imm(0))
		if inTree(req.Tree, sdk.TaskID(m.GetSession().GetForeground())) {
			setForeground(t, tty, m.GetSession())
		}
	}
	mode := t.Bytes(bytesOf(termios(m.GetTermios())))
	t.Call(unix.SYS_IOCTL, tty.Arg(), tape.Imm(unix.TCSETS2), mode.Arg())
	t.Call(unix.SYS_CLOSE, tty.Arg())
	if _, err := runTape(ctx, req.Host, task, t); err != nil {
		return err
	}
	if *now != *winsize(m.GetWindow()) {
		p.mu.Lock()
		p.resized = sdk.TaskID(m.GetSession().GetForeground())
		p.mu.Unlock()
	}
	return nil
}

// tellSize tells who runs in the foreground of a terminal that it has another
// size than the tree's old one.
func (p *plugin) tellSize(req *sdk.RestoreRequest) error {
	p.mu.Lock()
	group := p.resized
	p.mu.Unlock()
	for i := range req.Tree.Processes {
		if q := &req.Tree.Processes[i]; group != 0 && q.PGID == group && !q.Zombie {
			if err := unix.Kill(q.PID, unix.SIGWINCH); err != nil {
				return fmt.Errorf("tell task %d the size of its terminal: %w", q.ID, err)
			}
		}
	}
	return nil
}

// outsideFD is a descriptor of this process that is the host's terminal.
func (p *plugin) outsideFD(ts *terminalSet) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range ts.ends {
		if k := e.msg.GetKind(); k == filespb.TtyEnd_KIND_OUTSIDE || k == filespb.TtyEnd_KIND_OUTSIDE_CURRENT {
			if fd, ok := p.made[e.object]; ok {
				return fd
			}
		}
	}
	return -1
}

// inTree tells whether a process of the tree is in a process group.
func inTree(tree *sdk.Tree, group sdk.TaskID) bool {
	for i := range tree.Processes {
		if tree.Processes[i].PGID == group {
			return true
		}
	}
	return false
}
