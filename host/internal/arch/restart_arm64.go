package arch

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// ResolveLen is how many bytes before the program counter
// [Regs.ResolveRestart] wants to see.
const ResolveLen = 4

const (
	movzNr     = 0xd2800008 // movz x8, #nr
	movzNrWide = 0x52800008 // movz w8, #nr
	movzMask   = 0xffe0001f
)

// InRestart reports whether the task seems to be in restart_syscall: it had
// been interrupted before, and its registers do not tell in which call.
func (r *Regs) InRestart() bool { return r.X[regNr] == unix.SYS_RESTART_SYSCALL }

// ResolveRestart finds out which call a task was in that was interrupted in
// restart_syscall: text holds the ResolveLen bytes before the program counter,
// and if they set the number of a call that uses the restart block, it takes
// the place of restart_syscall. It reports whether the call is known now.
func (r *Regs) ResolveRestart(text []byte) bool {
	if !r.InRestart() {
		return true
	}
	if len(text) != ResolveLen {
		return false
	}
	insn := binary.LittleEndian.Uint32(text)
	if insn&movzMask != movzNr && insn&movzMask != movzNrWide {
		return false
	}
	switch nr := insn >> 5 & 0xffff; nr {
	case unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_FUTEX:
		r.X[regNr] = uint64(nr)
		return true
	}
	return false
}

// PendingRestart has nothing to do here: see [Regs.InRestart].
func (r *Regs) PendingRestart([]byte) bool { return false }

// MayRestart reports whether [Regs.PendingRestart] is worth a look at the code.
func (r *Regs) MayRestart() bool { return false }
