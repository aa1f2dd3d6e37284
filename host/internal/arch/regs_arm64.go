package arch

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// Name of the architecture, as in GOARCH.
const Name = "arm64"

// StopSyscallLen is the length of the system call instruction: at a syscall
// stop the program counter is behind it.
const StopSyscallLen = 4

const (
	ntArmTLS        = 0x401
	ntArmSystemCall = 0x404

	userRegsSize = 34 * 8 // struct user_pt_regs
	regsSize     = userRegsSize + 2*8

	// noSyscall as system call number keeps the kernel from applying the
	// restart of an interrupted system call to registers that are not its own.
	noSyscall = -1
	// pstateOff are the bits that must be clear in placed code: single step
	// and branch type.
	pstateOff = 1<<21 | 3<<10

	regNr = 8 // register of the system call number

	// insnSyscall is "svc #0".
	insnSyscall = 0xd4000001
)

// Results with which an interrupted system call waits for its restart, from
// include/linux/errno.h. No program ever sees them.
const (
	restartSys    = -512
	restartNoIntr = -513
	restartNoHand = -514
	restartBlock  = -516
)

// Regs are the general registers of a task.
//
// The kernel prepares the restart of an interrupted system call before it
// reports a stop (do_signal in arch/arm64/kernel/signal.c): the program counter
// is at the instruction again, x0 is the first argument. Only at the exit stop
// of PTRACE_SYSCALL this has not happened yet.
type Regs struct {
	X      [31]uint64
	Sp     uint64
	Pc     uint64
	Pstate uint64
	// Syscallno is the system call that the task is in, -1 if none.
	Syscallno int64
	// TLS is tpidr_el0.
	TLS uint64
}

// GetRegs reads the registers of a stopped task. A task that runs 32-bit code
// is [sdk.ErrUnsupported].
func GetRegs(tid int) (Regs, error) {
	var user [userRegsSize]byte
	n, err := getRegset(tid, ntPrstatus, user[:])
	if err != nil {
		return Regs{}, fmt.Errorf("get registers of task %d: %w", tid, err)
	}
	if n != userRegsSize {
		return Regs{}, fmt.Errorf("get registers of task %d: %d bytes: not 64-bit code: %w", tid, n, sdk.ErrUnsupported)
	}
	var nr [4]byte
	if _, err := getRegset(tid, ntArmSystemCall, nr[:]); err != nil {
		return Regs{}, fmt.Errorf("get system call of task %d: %w", tid, err)
	}
	var tls [8]byte
	if _, err := getRegset(tid, ntArmTLS, tls[:]); err != nil {
		return Regs{}, fmt.Errorf("get TLS register of task %d: %w", tid, err)
	}
	var r Regs
	le := binary.LittleEndian
	r.putUser(user[:])
	r.Syscallno = int64(int32(le.Uint32(nr[:])))
	r.TLS = le.Uint64(tls[:])
	return r, nil
}

// SetRegs writes the registers of a stopped task.
func SetRegs(tid int, r *Regs) error {
	b := r.Bytes()
	if err := setRegset(tid, ntPrstatus, b[:userRegsSize]); err != nil {
		return fmt.Errorf("set registers of task %d: %w", tid, err)
	}
	if err := setRegset(tid, ntArmSystemCall, b[userRegsSize:userRegsSize+4]); err != nil {
		return fmt.Errorf("set system call of task %d: %w", tid, err)
	}
	if err := setRegset(tid, ntArmTLS, b[userRegsSize+8:]); err != nil {
		return fmt.Errorf("set TLS register of task %d: %w", tid, err)
	}
	return nil
}

func (r *Regs) putUser(b []byte) {
	le := binary.LittleEndian
	for i := range r.X {
		r.X[i] = le.Uint64(b[8*i:])
	}
	r.Sp, r.Pc, r.Pstate = le.Uint64(b[248:]), le.Uint64(b[256:]), le.Uint64(b[264:])
}

// Bytes encodes the registers: struct user_pt_regs, the number of the system
// call, tpidr_el0; 64 bits each.
func (r *Regs) Bytes() []byte {
	b, le := make([]byte, 0, regsSize), binary.LittleEndian
	for _, v := range r.X {
		b = le.AppendUint64(b, v)
	}
	for _, v := range []uint64{r.Sp, r.Pc, r.Pstate, uint64(r.Syscallno), r.TLS} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// RegsFromBytes decodes what [Regs.Bytes] encoded.
func RegsFromBytes(b []byte) (Regs, error) {
	if len(b) != regsSize {
		return Regs{}, fmt.Errorf("registers: %d bytes, want %d: %w", len(b), regsSize, sdk.ErrCorrupt)
	}
	var r Regs
	r.putUser(b)
	r.Syscallno = int64(binary.LittleEndian.Uint64(b[userRegsSize:]))
	r.TLS = binary.LittleEndian.Uint64(b[userRegsSize+8:])
	return r, nil
}

// PC returns the program counter.
func (r *Regs) PC() uint64 { return r.Pc }

// SetPC sets the program counter.
func (r *Regs) SetPC(pc uint64) { r.Pc = pc }

// SP returns the stack pointer.
func (r *Regs) SP() uint64 { return r.Sp }

// SetSP sets the stack pointer.
func (r *Regs) SetSP(sp uint64) { r.Sp = sp }

// Result returns the register that holds the result of a system call.
func (r *Regs) Result() int64 { return int64(r.X[0]) }

// InSyscall reports whether the task was interrupted in a system call that
// waits for its restart. See [Regs] for why this is rare.
func (r *Regs) InSyscall() bool {
	if r.Syscallno < 0 {
		return false
	}
	switch r.Result() {
	case restartSys, restartNoIntr, restartNoHand, restartBlock:
		return true
	}
	return false
}

// Resume returns the registers with which the same task goes on. A restart that
// the kernel has not prepared yet is left to it.
func (r Regs) Resume() Regs {
	if !r.InSyscall() {
		r.Syscallno = noSyscall
	}
	return r
}

// Restored returns the registers with which a copy of the task starts, or the
// task itself after a sigreturn. An interrupted system call is executed again
// from its arguments, which the kernel prepared; relative timeouts start over.
// Where it did not, the first argument is not known and the call returns EINTR.
func (r Regs) Restored() Regs {
	if r.InSyscall() {
		r.X[0] = ^uint64(unix.EINTR) + 1
	}
	r.Syscallno = noSyscall
	return r
}

// SetCall makes the registers execute system call nr at pc, which is the
// address of a system call instruction.
func (r *Regs) SetCall(pc uint64, nr int, args [6]uint64) {
	r.Pc = pc
	copy(r.X[:], args[:])
	r.X[regNr] = uint64(nr)
	r.Syscallno = noSyscall
	r.Pstate &^= pstateOff
}
