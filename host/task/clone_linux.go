package task

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
)

// Clone asks a stopped task to create another.
type Clone struct {
	// From is the creator, Gadget a system call instruction in it.
	From   HostPID
	Gadget uint64
	// Scratch is memory of the creator for the arguments, 256 bytes or more,
	// and Mem the same bytes here. Without Mem they are written by the kernel.
	Scratch uint64
	Mem     []byte
	// Flags of clone(2); CLONE_PTRACE is added.
	Flags      uint64
	ExitSignal int
	// IDs are the numbers that the new task shall have: in the PID namespace in
	// which it is born, in the one around that, and so on. With none the kernel
	// chooses.
	IDs []uint32
	// Inside says that these do not reach as far as the host's PID namespace:
	// the kernel finds a free number for it here.
	Inside bool
}

// cloneArgsSize is the size of struct clone_args with set_tid and cgroup
// (linux/sched.h, since 5.7).
const cloneArgsSize = 88

func (c *Clone) args() []byte {
	le := binary.LittleEndian
	b := make([]byte, cloneArgsSize, cloneArgsSize+4*len(c.IDs))
	le.PutUint64(b[0:], c.Flags|unix.CLONE_PTRACE)
	le.PutUint64(b[32:], uint64(c.ExitSignal))
	if len(c.IDs) > 0 {
		le.PutUint64(b[64:], c.Scratch+cloneArgsSize) // set_tid
		le.PutUint64(b[72:], uint64(len(c.IDs)))      // set_tid_size
	}
	for _, id := range c.IDs {
		b = le.AppendUint32(b, id)
	}
	return b
}

// id is the number in the outermost namespace of which one is wanted; 0 if none
// is.
func (c *Clone) id() HostPID {
	if len(c.IDs) == 0 {
		return 0
	}
	return HostPID(c.IDs[len(c.IDs)-1])
}

// name is what errors call the new task.
func (c *Clone) name() string {
	if id := c.id(); id != 0 {
		return fmt.Sprintf("task %d", id)
	}
	return "a task"
}

// Clone creates a task and returns its number here. The new one is traced and
// stopped before its first instruction. With an error, a number that is not 0
// is that of a task to be killed.
func (o *Ops) Clone(c *Clone) (HostPID, error) {
	args := c.args()
	if c.Mem != nil {
		copy(c.Mem, args)
	} else if err := writeMem(c.From, c.Scratch, args); err != nil {
		return 0, err
	}
	if c.elsewhere() {
		// clone3 returns the number in the creator's namespace; the event has
		// the one in the tracer's (ptrace_event_pid in linux/ptrace.h, since
		// 3.17).
		err := suspended(opsOptions|optTraceFork|optTraceClone, func(opts uintptr) error { return setOptions(c.From, opts) })
		if err != nil {
			return 0, fmt.Errorf("create %s: trace clones of task %d: %w", c.name(), c.From, err)
		}
	}
	got, born, err := o.execute(c.From, c.Gadget, unix.SYS_CLONE3, c.Scratch, cloneArgsSize)
	if !c.elsewhere() {
		born = HostPID(got)
	}
	switch {
	case errors.Is(err, unix.EEXIST):
		return 0, fmt.Errorf("create %s: its number is taken: %w", c.name(), sdk.ErrInUse)
	case errors.Is(err, unix.EPERM):
		return 0, fmt.Errorf("create %s under its number: CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN needed: %w", c.name(), sdk.ErrNotPermitted)
	case err != nil:
		return 0, fmt.Errorf("create %s: clone3 in task %d: %w", c.name(), c.From, err)
	case born == 0:
		return 0, fmt.Errorf("create %s: the kernel did not tell its number: %w", c.name(), sdk.ErrKernel)
	case !c.Inside && len(c.IDs) > 0 && born != c.id():
		return born, fmt.Errorf("create %s: the kernel gave it number %d: %w", c.name(), born, sdk.ErrUnsupported)
	}
	return born, o.AwaitStop(born)
}

// elsewhere tells whether the creator may be in another PID namespace than the
// host, so that it does not get the number here.
func (c *Clone) elsewhere() bool { return c.Inside || len(c.IDs) > 1 }

func writeMem(tid HostPID, addr uint64, b []byte) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", tid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, int64(addr)); err != nil {
		return fmt.Errorf("write memory of task %d: %w", tid, err)
	}
	return nil
}

// SeedName is what the seed, and what is cloned from it, is called in /proc.
const SeedName = "firn-seed"

// Seed is the tiny program from which a restore clones the tree.
type Seed struct {
	PID HostPID
	// Gadget is the address of its system call instruction.
	Gadget uint64
	// Init is where the program of an init begins ([Ops.StartInit]).
	Init uint64
	// Scratch is free memory of it.
	Scratch uint64
}

// execFD is where the seed's file is kept while it is executed: above the
// descriptors that the new process gets.
const execFD = 200

// StartSeed starts the seed, a child of this process, and stops it. The files
// become its descriptors 0, 1, 2 ... and it has no others.
func (o *Ops) StartSeed(files []*os.File) (*Seed, error) {
	elf, gadget, init := arch.Seed()
	fd, err := unix.MemfdCreate(SeedName, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before 6.3
		fd, err = unix.MemfdCreate(SeedName, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("seed: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), SeedName)
	defer f.Close()
	if _, err := f.Write(elf); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	high, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, execFD+len(files))
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	defer unix.Close(high)
	attr := &syscall.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}}
	for _, x := range files {
		attr.Files = append(attr.Files, x.Fd())
	}
	pid, err := syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", high), []string{SeedName}, attr)
	runtime.KeepAlive(files)
	if err != nil {
		return nil, fmt.Errorf("seed: execute: %w", err)
	}
	s := &Seed{PID: HostPID(pid), Gadget: gadget, Init: init}
	if err := o.seizeSeed(s); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return nil, errors.Join(err, reap(o.ctx, s.PID))
	}
	return s, nil
}

func (o *Ops) seizeSeed(s *Seed) error {
	if err := o.Seize(s.PID); err != nil {
		return err
	}
	if err := o.BlockSignals(s.PID); err != nil {
		return err
	}
	regs, err := arch.GetRegs(int(s.PID))
	s.Scratch = (regs.SP() - 1024) &^ 15
	return err
}
