package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/host/pidns/survey"
	"github.com/firn-cr/firn/host/skeleton"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// namespace is a PID namespace that was made for the tree (pid_namespaces(7)).
//
// Its first process is the root, if that was so, or else a small init. That is a
// sibling of the root, for the root
// is a child of the restorer as ever, and waits for the root by a pidfd. When the
// root ends, init does, and the kernel ends everybody else in the namespace. It
// ignores SIGCHLD, so that the kernel reaps the orphans that come to it, and no
// other signal from inside reaches it.
type namespace struct {
	seed *task.Seed
	init task.HostPID // 0 if it is the root
	root sdk.TaskID
	// proc is the namespace's /proc, which is not mounted anywhere yet; nil if
	// the tree gets none.
	proc *os.File
}

// openNamespace makes a PID namespace for what the seed clones from now on,
// and its init.
func (s *spawner) openNamespace() error {
	if !s.pidns.IsOwn() {
		return nil
	}
	_, err := s.ops.Syscall(s.seed.PID, s.seed.Gadget, unix.SYS_UNSHARE, unix.CLONE_NEWPID)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("create: CAP_SYS_ADMIN needed: %w", sdk.ErrNotPermitted)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("create: CONFIG_PID_NS needed: %w", sdk.ErrKernel)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("create: raise user.max_pid_namespaces, or nest less than 32 levels: %w", err)
	case err != nil:
		return fmt.Errorf("create: %w", err)
	}
	// A session or group outside of the namespace is 0 inside. The restorer's
	// would be such a one, with a terminal that is none of the tree's.
	if !s.cfg.ShellJob {
		if _, err := s.ops.Syscall(s.seed.PID, s.seed.Gadget, unix.SYS_SETSID); err != nil {
			return fmt.Errorf("leave the session: %w", err)
		}
	}
	s.ns = &namespace{seed: s.seed, root: s.tree.Root}
	if !s.pidns.FirnInit() {
		return nil
	}
	pid, err := s.ops.Clone(&task.Clone{
		From: s.seed.PID, Gadget: s.seed.Gadget, Scratch: s.seed.Scratch, Flags: unix.CLONE_PARENT,
		IDs: []uint32{uint32(pidns.InitID)}, Inside: true,
	})
	s.keep(pidns.InitID, pid)
	if err != nil {
		return err
	}
	s.ns.init, s.res.InitPID = pid, int(pid)
	if err := s.ns.furnish(s.ops); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return s.ns.openProc(s.ops, pid, s.pidns)
}

// call has a clone of the seed make a system call. Data goes to its scratch
// memory, where arguments find it.
func (n *namespace) call(o *task.Ops, pid task.HostPID, what string, data []byte, nr int, args ...uint64) (uint64, error) {
	if len(data) > 0 {
		if err := o.Write(pid, n.seed.Scratch, data); err != nil {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
	}
	got, err := o.Syscall(pid, n.seed.Gadget, nr, args...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return got, nil
}

// request is a system call of init's.
type request struct {
	what string
	data []byte
	nr   int
	args []uint64
}

// furnish makes init independent of where the restorer was started: no
// directory, no terminal. What the tree has left to it inherits the rest.
func (n *namespace) furnish(o *task.Ops) error {
	at := n.seed.Scratch
	return n.requests(o, []request{
		{"leave the session", nil, unix.SYS_SETSID, nil},
		{"leave the directory", []byte("/\x00"), unix.SYS_CHDIR, []uint64{at}},
		{"set the name", []byte(survey.InitName + "\x00"), unix.SYS_PRCTL, []uint64{unix.PR_SET_NAME, at}},
	})
}

func (n *namespace) requests(o *task.Ops, all []request) error {
	for _, c := range all {
		if _, err := n.call(o, n.init, c.what, c.data, c.nr, c.args...); err != nil {
			return err
		}
	}
	return nil
}

// openProc has the first process of the namespace, which is still a clone of the
// seed with all rights, make the namespace's /proc: it shows the numbers of the
// namespace of its maker (proc(5)). Nobody sees it until it is mounted.
func (n *namespace) openProc(o *task.Ops, first task.HostPID, ns *pidns.Map) error {
	if !ns.HasProc() {
		return nil
	}
	fs, err := n.call(o, first, "open proc", []byte("proc\x00"), unix.SYS_FSOPEN, n.seed.Scratch, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := n.call(o, first, "create proc", nil, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, 0, 0, 0); err != nil {
		return err
	}
	const attributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	mount, err := n.call(o, first, "make the mount of proc", nil, unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return err
	}
	if n.proc, err = pull(first, int(mount)); err != nil {
		return fmt.Errorf("take the mount of proc: %w", err)
	}
	for _, fd := range []uint64{mount, fs} {
		if _, err := n.call(o, first, "close proc", nil, unix.SYS_CLOSE, fd); err != nil {
			return err
		}
	}
	return nil
}

// pull duplicates a descriptor of a task.
func pull(pid task.HostPID, fd int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd: %w", err)
	}
	defer unix.Close(pidfd)
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_getfd: %w", err)
	}
	return os.NewFile(uintptr(got), "proc"), nil
}

// procPoint is where the tree's own /proc is mounted.
const procPoint = "/proc"

// start gives the namespace its own /proc and lets init run. It comes last:
// until then the restorer and its plugins need the /proc of the host, in the
// mount namespace that they share with the tree.
func (n *namespace) start(o *task.Ops) error {
	if n.init != 0 {
		if err := n.charge(o); err != nil {
			return fmt.Errorf("init: %w", err)
		}
	}
	if n.proc != nil {
		if err := unix.MoveMount(int(n.proc.Fd()), "", unix.AT_FDCWD, procPoint, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", procPoint, err)
		}
	}
	if n.init == 0 {
		return nil
	}
	return o.StartInit(n.init, n.seed.Init, n.seed.Scratch)
}

// charge takes from init what only the tree was to inherit, has it ignore SIGCHLD,
// and tells it what to wait for, by a struct pollfd.
func (n *namespace) charge(o *task.Ops) error {
	const sigIgn = 1
	ignore := make([]byte, 32) // struct kernel_sigaction: handler first
	ignore[0] = sigIgn
	if err := n.requests(o, []request{
		{"close descriptors", nil, unix.SYS_CLOSE_RANGE, []uint64{0, uint64(^uint32(0)), 0}},
		{"ignore SIGCHLD", ignore, unix.SYS_RT_SIGACTION, []uint64{uint64(unix.SIGCHLD), n.seed.Scratch, 0, 8}},
	}); err != nil {
		return err
	}
	fd, err := n.call(o, n.init, "open the root's pidfd", nil, unix.SYS_PIDFD_OPEN, uint64(n.root), 0)
	if err != nil {
		return err
	}
	data := binary.LittleEndian.AppendUint32(nil, uint32(fd))
	data = binary.LittleEndian.AppendUint16(data, unix.POLLIN)
	data = binary.LittleEndian.AppendUint16(data, 0)
	return o.Write(n.init, n.seed.Scratch, data)
}

// close closes what the host has of the namespace.
func (n *namespace) close() error {
	if n.proc == nil {
		return nil
	}
	return n.proc.Close()
}

// enter has the children of a process be born in another PID namespace.
func enter(o *task.Ops, pid task.HostPID, gadget uint64, st skeleton.Step) error {
	if st.Unshare {
		if _, err := o.Syscall(pid, gadget, unix.SYS_UNSHARE, unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("task %d: PID namespace of its next child: %w", st.Task, err)
		}
		return nil
	}
	fd, err := o.Syscall(pid, gadget, unix.SYS_PIDFD_OPEN, uint64(st.Number), 0)
	if err != nil {
		return fmt.Errorf("task %d: pidfd of %d: %w", st.Task, st.Number, err)
	}
	if _, err = o.Syscall(pid, gadget, unix.SYS_SETNS, fd, unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("task %d: PID namespace of its children: %w", st.Task, err)
	}
	if _, err := o.Syscall(pid, gadget, unix.SYS_CLOSE, fd); err != nil {
		return fmt.Errorf("task %d: close a pidfd: %w", st.Task, err)
	}
	return nil
}
