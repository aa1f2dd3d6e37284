package arch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// Name of the architecture, as in GOARCH.
const Name = "amd64"

// StopSyscallLen is the length of the system call instruction: at a syscall
// stop the program counter is behind it.
const StopSyscallLen = 2

const (
	regsSize = int(unsafe.Sizeof(unix.PtraceRegs{}))

	// noSyscall in Orig_rax keeps the kernel from applying the restart of an
	// interrupted system call to registers that are not its own.
	noSyscall = ^uint64(0)
	// flagsOff are eflags that must be clear in placed code: trap, direction
	// and resume flag.
	flagsOff = 1<<8 | 1<<10 | 1<<16

	sysRestartSyscall = unix.SYS_RESTART_SYSCALL
)

// Results with which an interrupted system call waits for its restart, from
// include/linux/errno.h. No program ever sees them.
const (
	restartSys       = -512
	restartNoIntr    = -513
	restartNoHand    = -514
	restartBlock     = -516
	timerAbstimeFlag = 1
)

// Regs are the general registers of a task.
type Regs unix.PtraceRegs

// GetRegs reads the registers of a stopped task. A task that runs 32-bit code
// is [sdk.ErrUnsupported].
func GetRegs(tid int) (Regs, error) {
	var r Regs
	n, err := getRegset(tid, ntPrstatus, r.raw())
	if err != nil {
		return Regs{}, fmt.Errorf("get registers of task %d: %w", tid, err)
	}
	if n != regsSize {
		return Regs{}, fmt.Errorf("get registers of task %d: %d bytes: not 64-bit code: %w", tid, n, sdk.ErrUnsupported)
	}
	return r, nil
}

// SetRegs writes the registers of a stopped task.
func SetRegs(tid int, r *Regs) error {
	if err := setRegset(tid, ntPrstatus, r.raw()); err != nil {
		return fmt.Errorf("set registers of task %d: %w", tid, err)
	}
	return nil
}

// raw is the memory of r; the layout is the kernel's.
func (r *Regs) raw() []byte { return (*[regsSize]byte)(unsafe.Pointer(r))[:] }

// Bytes encodes the registers, in the kernel's layout.
func (r *Regs) Bytes() []byte { return bytes.Clone(r.raw()) }

// RegsFromBytes decodes what [Regs.Bytes] encoded.
func RegsFromBytes(b []byte) (Regs, error) {
	var r Regs
	if len(b) != regsSize {
		return Regs{}, fmt.Errorf("registers: %d bytes, want %d: %w", len(b), regsSize, sdk.ErrCorrupt)
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &r); err != nil {
		return Regs{}, fmt.Errorf("registers: %w", err)
	}
	return r, nil
}

// PC returns the program counter.
func (r *Regs) PC() uint64 { return r.Rip }

// SetPC sets the program counter.
func (r *Regs) SetPC(pc uint64) { r.Rip = pc }

// SP returns the stack pointer.
func (r *Regs) SP() uint64 { return r.Rsp }

// SetSP sets the stack pointer.
func (r *Regs) SetSP(sp uint64) { r.Rsp = sp }

// Result returns the register that holds the result of a system call.
func (r *Regs) Result() int64 { return int64(r.Rax) }

// InSyscall reports whether the task was interrupted in a system call that
// waits for its restart.
func (r *Regs) InSyscall() bool {
	if int64(r.Orig_rax) < 0 {
		return false
	}
	switch r.Result() {
	case restartSys, restartNoIntr, restartNoHand, restartBlock:
		return true
	}
	return false
}

// Resume returns the registers with which the same task goes on, with the
// restart of an interrupted system call made explicit. It is valid as long as
// nothing touched the task's restart block: no rt_sigreturn and no nanosleep,
// futex wait or poll with a timeout on its behalf.
func (r Regs) Resume() Regs {
	if r.InSyscall() {
		nr := r.Orig_rax
		if r.Result() == restartBlock {
			nr = sysRestartSyscall
		}
		r.executeAgain(nr)
	}
	r.Orig_rax = noSyscall
	return r
}

// Restored returns the registers with which a copy of the task starts, or the
// task itself after a sigreturn: there is no restart block, so the call is
// executed again from its arguments. A relative sleep continues with the
// remaining time if the program gave the kernel room to store it; other
// relative timeouts start over.
//
// A task that was interrupted in restart_syscall itself has no known call
// unless [Regs.ResolveRestart] found it: it sees EINTR.
func (r Regs) Restored() Regs {
	if r.InSyscall() {
		r.restoreCall()
	}
	r.Orig_rax = noSyscall
	return r
}

func (r *Regs) restoreCall() {
	if r.Orig_rax == sysRestartSyscall {
		r.Rax = ^uint64(unix.EINTR) + 1
		return
	}
	if r.Result() == restartBlock {
		switch r.Orig_rax {
		case unix.SYS_NANOSLEEP:
			if r.Rsi != 0 {
				r.Rdi = r.Rsi
			}
		case unix.SYS_CLOCK_NANOSLEEP:
			if r.R10 != 0 && r.Rsi&timerAbstimeFlag == 0 {
				r.Rdx = r.R10
			}
		}
	}
	r.executeAgain(r.Orig_rax)
}

func (r *Regs) executeAgain(nr uint64) {
	r.Rax = nr
	r.Rip -= StopSyscallLen
}

// ResolveLen is how many bytes before the program counter
// [Regs.ResolveRestart] wants to see.
const ResolveLen = 7

// ResolveRestart finds out which call a task was in that was interrupted in
// restart_syscall: text holds the ResolveLen bytes before the program counter,
// and if they are "mov $nr, %eax; syscall" with a call that uses the restart
// block, nr takes the place of restart_syscall. It reports whether the call is
// known now.
func (r *Regs) ResolveRestart(text []byte) bool {
	if !r.InSyscall() || r.Orig_rax != sysRestartSyscall {
		return true
	}
	if len(text) != ResolveLen || text[0] != 0xb8 || text[5] != 0x0f || text[6] != 0x05 {
		return false
	}
	switch nr := binary.LittleEndian.Uint32(text[1:]); nr {
	case unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_FUTEX, unix.SYS_POLL:
		r.Orig_rax = uint64(nr)
		return true
	}
	return false
}

// SetCall makes the registers execute system call nr at pc, which is the
// address of a system call instruction.
func (r *Regs) SetCall(pc uint64, nr int, args [6]uint64) {
	r.Rip = pc
	r.Rax = uint64(nr)
	r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9 = args[0], args[1], args[2], args[3], args[4], args[5]
	r.Orig_rax = noSyscall
	r.Eflags &^= flagsOff
}
