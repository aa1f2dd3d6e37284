package files

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// examinePidfd finds the task of a pidfd in the tree.
func (s *survey) examinePidfd(it *item) error {
	info, err := s.access.FDInfo(it.res)
	if err != nil {
		return err
	}
	if info.Pidfd == nil {
		return fmt.Errorf("fdinfo of a pidfd has no number: %w", sdk.ErrKernel)
	}
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	msg := &filespb.Pidfd{Description: d}
	pid := info.Pidfd.PID
	id := taskOf(s.sess.Tree, pid)
	switch {
	case pid == 0:
		s.block(it, "pidfd of a task in another PID namespace", "")
		return nil
	case pid > 0 && id == 0:
		if !s.frozen && descends(s.sess.Tree, pid) {
			return nil // made since the tree was walked
		}
		s.block(it, fmt.Sprintf("pidfd of task %d, which is outside the tree", pid), "")
		return nil
	case pid > 0:
		msg.Task = uint32(id)
	default:
		fd, err := s.access.Dup(it.res)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if status, ok := kern.PidfdExitStatus(fd); ok {
			msg.ExitStatus = uint32(status)
		}
	}
	it.kind, it.msg = kindPidfd, msg
	return nil
}

// taskOf is the process or thread of the tree that has a number here; 0 if there
// is none.
func taskOf(tree *sdk.Tree, pid int) sdk.TaskID {
	if p := tree.ByPID(pid); p != nil {
		return p.ID
	}
	for i := range tree.Processes {
		for _, t := range tree.Processes[i].Threads {
			if t.TID == pid {
				return t.ID
			}
		}
	}
	return 0
}

// threadOf finds a thread of the tree.
func threadOf(tree *sdk.Tree, id sdk.TaskID) *sdk.Thread {
	for i := range tree.Processes {
		for j := range tree.Processes[i].Threads {
			if t := &tree.Processes[i].Threads[j]; t.ID == id {
				return t
			}
		}
	}
	return nil
}

// descends tells whether an ancestor of a process is in the tree.
func descends(tree *sdk.Tree, pid int) bool {
	for range 1 << 10 {
		st, err := procfs.Stat(pid)
		if err != nil || st.PPID == 0 {
			return err != nil // it has ended: the frozen tree will tell
		}
		if pid = st.PPID; tree.ByPID(pid) != nil {
			return true
		}
	}
	return false
}

// makePidfd opens a pidfd of a process of the tree, which exists already. One
// of another thread than the main one is a stand-in: [linker.pidfd] opens it
// when there are threads.
func (r *restore) makePidfd(m *filespb.Pidfd) (fd int, err error) {
	flags := m.GetDescription().GetFlags()
	switch p := r.req.Tree.Process(sdk.TaskID(m.GetTask())); {
	case m.GetTask() == 0:
		fd, err = r.deadPidfd(unix.WaitStatus(m.GetExitStatus()))
	case p != nil:
		fd, err = unix.PidfdOpen(p.PID, int(flags&unix.PIDFD_THREAD))
	default:
		fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
		flags &^= unix.O_NONBLOCK
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd of task %d: %w", m.GetTask(), err)
	}
	if err := openfile.SetFlags(fd, flags); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("pidfd of task %d: %w", m.GetTask(), err)
	}
	return fd, nil
}

// deadPidfd makes one that is of the tree's PID namespace.
func (r *restore) deadPidfd(status unix.WaitStatus) (int, error) {
	root := r.req.Tree.Process(r.req.Tree.Root)
	if root == nil {
		return -1, fmt.Errorf("the tree has no root: %w", sdk.ErrCorrupt)
	}
	return kern.DeadPidfd(status, fmt.Sprintf("/proc/%d/ns/pid", root.PID))
}

// pidfd puts a pidfd of a thread into the place of its stand-in fd, in this
// process and in all that have it.
func (l *linker) pidfd(req *sdk.RestoreRequest, object uint64, m *filespb.Pidfd, fd int) error {
	id := sdk.TaskID(m.GetTask())
	if id == 0 || req.Tree.Process(id) != nil {
		return nil
	}
	thread := threadOf(req.Tree, id)
	if thread == nil {
		return fmt.Errorf("pidfd of task %d, which is not in the tree: %w", id, sdk.ErrCorrupt)
	}
	flags := m.GetDescription().GetFlags()
	made, err := unix.PidfdOpen(thread.TID, unix.PIDFD_THREAD)
	if err != nil {
		return fmt.Errorf("pidfd of thread %d: %w", id, err)
	}
	defer unix.Close(made)
	if err := openfile.SetFlags(made, flags); err != nil {
		return fmt.Errorf("pidfd of thread %d: %w", id, err)
	}
	if err := unix.Dup3(made, fd, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("pidfd of thread %d: dup3: %w", id, err)
	}
	for i := range req.Resources {
		if req.Resources[i].Object != object {
			continue
		}
		for _, ref := range req.Resources[i].File.Refs {
			if err := l.replace(req.PluginFD, fd, ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// replace puts descriptor fd of this process into the place of one of a task.
func (l *linker) replace(pluginFD, fd int, ref sdk.FDRef) error {
	t, err := l.of(ref.Task)
	if err != nil {
		return err
	}
	about := fmt.Sprintf("replace fd %d of task %d", ref.FD, ref.Task)
	cloexec := tape.Imm(0)
	if ref.Cloexec {
		cloexec = tape.Imm(unix.O_CLOEXEC)
	}
	got := t.call(about, unix.SYS_PIDFD_GETFD, tape.Imm(pluginFD), tape.Imm(fd), tape.Imm(0))
	t.call(about, unix.SYS_DUP3, got.Arg(), tape.Imm(ref.FD), cloexec)
	t.call(about, unix.SYS_CLOSE, got.Arg())
	return nil
}
