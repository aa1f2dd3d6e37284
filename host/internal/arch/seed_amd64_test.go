package arch

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// TestSeedRuns starts the seed and makes a call with its instruction.
func TestSeedRuns(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	image, gadget, _ := Seed()
	path := filepath.Join(t.TempDir(), "seed")
	check(t, os.WriteFile(path, image, 0o700))
	cmd := exec.Command(path)
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	s := &subject{t: t, tid: cmd.Process.Pid}
	s.eventually("pause", s.asleep)
	s.seize()
	regs, err := GetRegs(s.tid)
	check(t, err)
	if regs.PC() != gadget+StopSyscallLen || !regs.InSyscall() {
		t.Errorf("the seed is at %#x, not in pause", regs.PC())
	}
	call := regs
	call.SetCall(gadget, unix.SYS_GETPID, [6]uint64{})
	s.setRegs(call)
	for range 2 {
		check(t, unix.PtraceSyscall(s.tid, 0))
		s.wait()
	}
	after, err := GetRegs(s.tid)
	check(t, err)
	if after.Result() != int64(s.tid) {
		t.Errorf("getpid returned %d", after.Result())
	}
	s.setRegs(regs.Resume())
	s.detach()
}
