package probe

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
)

// traceeDeadline bounds the wait for the stop of the task that is traced.
const traceeDeadline = 2 * time.Second

// traced is what tracing a task that Firn started itself showed.
type traced struct {
	seize, seccomp, rseq error
}

// tracee starts the seed that a restore starts too, traces it and ends it.
var tracee = sync.OnceValue(func() traced {
	result := make(chan traced, 1)
	go func() {
		runtime.LockOSThread() // ptrace belongs to a thread; this one ends with it
		result <- traceSeed()
	}()
	return <-result
})

func havePtrace() (string, error)         { return "", tracee().seize }
func haveSuspendSeccomp() (string, error) { return "", tracee().seccomp }
func haveRseqConfig() (string, error)     { return "", tracee().rseq }

func traceSeed() traced {
	cmd, err := startSeed()
	if err != nil {
		err = fmt.Errorf("start a task to trace: %w", err)
		return traced{err, err, err}
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	tid := cmd.Process.Pid
	if err := seize(tid); err != nil {
		return traced{err, err, err}
	}
	return traced{seccomp: suspendSeccomp(tid), rseq: rseqConfig(tid)}
}

// startSeed executes the seed from memory: its file is gone before the task runs.
func startSeed() (*exec.Cmd, error) {
	image, _, _ := arch.Seed()
	fd, err := unix.MemfdCreate("firn-probe", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every memfd can be executed
		fd, err = unix.MemfdCreate("firn-probe", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "firn-probe")
	defer f.Close()
	if _, err := f.Write(image); err != nil {
		return nil, err
	}
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd))
	// It must not outlive a host that is killed.
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd, cmd.Start()
}

// seize traces the task and stops it.
func seize(tid int) error {
	if err := unix.PtraceSeize(tid); err != nil {
		return err
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		return err
	}
	for end := time.Now().Add(traceeDeadline); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		var status unix.WaitStatus
		stopped, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case stopped == tid && status.Stopped():
			return nil
		case stopped == tid:
			return fmt.Errorf("the traced task ended: status %#x", int(status))
		}
	}
	return errors.New("the traced task did not stop")
}

// suspendSeccomp asks for an option that needs CAP_SYS_ADMIN and
// CONFIG_CHECKPOINT_RESTORE, and that does nothing for a task without a filter.
func suspendSeccomp(tid int) error {
	return unix.PtraceSetOptions(tid, unix.PTRACE_O_SUSPEND_SECCOMP)
}

// rseqConfiguration is struct ptrace_rseq_configuration.
type rseqConfiguration struct {
	pointer                     uint64
	size, signature, flags, pad uint32
}

func rseqConfig(tid int) error {
	var c rseqConfiguration
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_RSEQ_CONFIGURATION, uintptr(tid),
		unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
