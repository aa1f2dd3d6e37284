package restore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// initID is the number of the first process of a PID namespace.
const initID sdk.TaskID = 1

// initName is what its init is called in /proc.
const initName = "firn-init"

// namespace is a PID namespace that was made for the tree (pid_namespaces(7)).
//
// Its first process is a small init. It is a sibling of the root, for the root
// is a child of the restorer as ever, and waits for the root by a pidfd. When the
// root ends, init does, and the kernel ends everybody else in the namespace. It
// ignores SIGCHLD, so that the kernel reaps the orphans that come to it, and no
// other signal from inside reaches it.
type namespace struct {
	seed *task.Seed
	init task.HostPID
	root sdk.TaskID
}

// openNamespace makes a PID namespace for what the seed clones from now on,
// and its init.
func (s *spawner) openNamespace() error {
	if !s.cfg.NewPIDNamespace {
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
	s.ns = &namespace{seed: s.seed, root: s.tree.Root}
	pid, err := s.ops.Clone(&task.Clone{
		From: s.seed.PID, Gadget: s.seed.Gadget, Scratch: s.seed.Scratch, Flags: unix.CLONE_PARENT,
		ID: task.NSPID(initID), Inside: true,
	})
	s.keep(initID, pid)
	if err != nil {
		return err
	}
	s.ns.init, s.res.InitPID = pid, int(pid)
	return s.ns.furnish(s.ops)
}

// call has init make a system call. Data goes to its scratch memory, where
// arguments find it.
func (n *namespace) call(o *task.Ops, what string, data []byte, nr int, args ...uint64) (uint64, error) {
	if len(data) > 0 {
		if err := o.Write(n.init, n.seed.Scratch, data); err != nil {
			return 0, fmt.Errorf("init: %s: %w", what, err)
		}
	}
	got, err := o.Syscall(n.init, n.seed.Gadget, nr, args...)
	if err != nil {
		return 0, fmt.Errorf("init: %s: %w", what, err)
	}
	return got, nil
}

// furnish makes init independent of where the restorer was started: no
// descriptors, no directory, no terminal.
func (n *namespace) furnish(o *task.Ops) error {
	const sigIgn = 1
	ignore := make([]byte, 32) // struct kernel_sigaction: handler first
	ignore[0] = sigIgn
	at := n.seed.Scratch
	for _, c := range []struct {
		what string
		data []byte
		nr   int
		args []uint64
	}{
		{"close descriptors", nil, unix.SYS_CLOSE_RANGE, []uint64{0, uint64(^uint32(0)), 0}},
		{"leave the session", nil, unix.SYS_SETSID, nil},
		{"leave the directory", []byte("/\x00"), unix.SYS_CHDIR, []uint64{at}},
		{"set the name", []byte(initName + "\x00"), unix.SYS_PRCTL, []uint64{unix.PR_SET_NAME, at}},
		{"ignore SIGCHLD", ignore, unix.SYS_RT_SIGACTION, []uint64{uint64(unix.SIGCHLD), at, 0, 8}},
	} {
		if _, err := n.call(o, c.what, c.data, c.nr, c.args...); err != nil {
			return err
		}
	}
	return nil
}

// start gives the namespace its own /proc and lets init run. It comes last:
// until then the restorer and its plugins need the /proc of the host, in the
// mount namespace that they share with the tree.
func (n *namespace) start(o *task.Ops) error {
	fd, err := n.call(o, "open the root's pidfd", nil, unix.SYS_PIDFD_OPEN, uint64(n.root), 0)
	if err != nil {
		return err
	}
	// What init waits for, and behind it the words for mount(2).
	const proc, dir = 8, 16                                   // offsets
	data := binary.LittleEndian.AppendUint32(nil, uint32(fd)) // struct pollfd
	data = binary.LittleEndian.AppendUint16(data, unix.POLLIN)
	data = binary.LittleEndian.AppendUint16(data, 0)
	data = append(data, "proc\x00\x00\x00\x00/proc\x00"...)
	at := n.seed.Scratch
	_, err = n.call(o, "mount /proc", data, unix.SYS_MOUNT, at+proc, at+dir, at+proc,
		unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, 0)
	if err != nil {
		return err
	}
	return o.StartInit(n.init, n.seed.Init, at)
}
