package arch

import "bytes"

// InRestart reports whether the task was interrupted in restart_syscall: it had
// been interrupted before, and its registers do not tell in which call.
func (r *Regs) InRestart() bool { return r.InSyscall() && r.Orig_rax == sysRestartSyscall }

// PendingRestart moves a task that is about to execute restart_syscall, and was
// stopped right before it, back to the moment of the interruption: code holds
// the bytes at the program counter. Such registers mean nothing to a restored
// task, whose restart block is empty. It reports whether anything was changed.
func (r *Regs) PendingRestart(code []byte) bool {
	if int64(r.Orig_rax) >= 0 || r.Rax != sysRestartSyscall || !bytes.HasPrefix(code, syscallInsn) {
		return false
	}
	r.Orig_rax = sysRestartSyscall
	r.Rip += StopSyscallLen
	interrupted := int64(restartBlock)
	r.Rax = uint64(interrupted)
	return true
}

// MayRestart reports whether [Regs.PendingRestart] is worth a look at the code.
func (r *Regs) MayRestart() bool { return int64(r.Orig_rax) < 0 && r.Rax == sysRestartSyscall }
