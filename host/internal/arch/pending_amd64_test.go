package arch

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A task that is stopped between the kernel's preparation of a restart and the
// restart itself is resolved like one that is stopped in it.
func TestPendingRestart(t *testing.T) {
	text := []byte{0xb8, unix.SYS_CLOCK_NANOSLEEP, 0, 0, 0, 0x0f, 0x05}
	var r Regs
	r.Orig_rax, r.Rax, r.Rip = noSyscall, sysRestartSyscall, 0x1005
	if !r.MayRestart() || !r.PendingRestart(text[5:]) {
		t.Fatal("not recognized")
	}
	if !r.InRestart() || r.Rip != 0x1007 || !r.ResolveRestart(text) || r.Orig_rax != unix.SYS_CLOCK_NANOSLEEP {
		t.Fatalf("registers %+v", r)
	}
	if got := r.Resume(); got.Rax != sysRestartSyscall || got.Rip != 0x1005 {
		t.Errorf("the same task goes on with %+v", got)
	}
	if got := r.Restored(); got.Rax != unix.SYS_CLOCK_NANOSLEEP || got.Rip != 0x1005 {
		t.Errorf("a restored task goes on with %+v", got)
	}
	other := Regs{}
	other.Orig_rax, other.Rax = noSyscall, sysRestartSyscall
	if other.PendingRestart([]byte{0x90, 0x90}) {
		t.Error("a number in a register is taken for a restart")
	}
}
