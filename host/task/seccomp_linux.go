package task

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// Requests of linux/ptrace.h about seccomp filters.
const (
	ptraceGetFilter   = 0x420c // PTRACE_SECCOMP_GET_FILTER, since 4.4
	ptraceGetMetadata = 0x420d // PTRACE_SECCOMP_GET_METADATA, since 4.16
)

// sockFilterSize is sizeof(struct sock_filter).
const sockFilterSize = 8

// SeccompMode reads the seccomp mode of a task, one of SECCOMP_MODE_.
func SeccompMode(tid HostPID) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0, err
	}
	return seccompMode(b)
}

// seccompMode finds the line "Seccomp:" in /proc/PID/status (since Linux 3.8);
// a kernel without seccomp has none.
func seccompMode(status []byte) (int, error) {
	_, rest, found := bytes.Cut(status, []byte("\nSeccomp:\t"))
	if !found {
		return unix.SECCOMP_MODE_DISABLED, nil
	}
	word, _, _ := bytes.Cut(rest, []byte{'\n'})
	mode, err := strconv.ParseUint(string(word), 10, 8)
	if err != nil {
		return 0, fmt.Errorf("seccomp mode %q: %w", word, sdk.ErrCorrupt)
	}
	return int(mode), nil
}

// MaySuspendSeccomp tells why the host may not suspend seccomp of a task; nil
// if it may. The kernel wants CAP_SYS_ADMIN and a tracer that is not under
// seccomp itself (check_ptrace_options in kernel/ptrace.c).
func MaySuspendSeccomp() error {
	mode, err := SeccompMode(HostPID(os.Getpid()))
	if err != nil {
		return err
	}
	if mode != unix.SECCOMP_MODE_DISABLED {
		return fmt.Errorf("firn is under seccomp itself: %w", sdk.ErrNotPermitted)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	if sets[unix.CAP_SYS_ADMIN/32].Effective&(1<<(unix.CAP_SYS_ADMIN%32)) == 0 {
		return fmt.Errorf("CAP_SYS_ADMIN needed: %w", sdk.ErrNotPermitted)
	}
	return nil
}

// suspendSeccomp keeps seccomp from looking at the system calls of a stopped
// task until it is detached (PTRACE_O_SUSPEND_SECCOMP, since Linux 4.3). The
// kernel ends that with the tracing, by whatever it ends: a detached task is
// under its filters from its first instruction on.
//
// It must not be an option of PTRACE_SEIZE: the task would go on unfiltered
// until it stops. It changes nothing for a task that is not under seccomp, so
// every task gets it: to find out which are would take 25 microseconds of
// frozen time for each, this takes less than one. Only where the host may not
// have it is the mode looked at.
func suspendSeccomp(tid HostPID) error {
	err := ptrace(unix.PTRACE_SETOPTIONS, tid, 0, freezeOptions|optSuspendSeccomp)
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	mode, merr := SeccompMode(tid)
	switch {
	case merr != nil:
		return merr
	case mode == unix.SECCOMP_MODE_DISABLED:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("CAP_SYS_ADMIN needed, and firn must not be under seccomp itself: %w: %w", err, sdk.ErrNotPermitted)
	}
	return fmt.Errorf("a kernel with CONFIG_CHECKPOINT_RESTORE needed: %w: %w", err, sdk.ErrKernel)
}

// seccompFilters reads the filters of a stopped thread, the oldest first.
func seccompFilters(tid HostPID) ([]sdk.SeccompFilter, error) {
	var filters []sdk.SeccompFilter
	for {
		f, err := seccompFilter(tid, len(filters))
		switch {
		case errors.Is(err, unix.ENOENT):
			return filters, nil
		case len(filters) == 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EIO)):
			// It has none; or the host may not ask, or the kernel does not
			// know the request, and suspendSeccomp has made sure that it has
			// none.
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("read seccomp filter %d: %w", len(filters), err)
		}
		filters = append(filters, f)
	}
}

// seccompFilter reads one filter; the error is ENOENT behind the last.
func seccompFilter(tid HostPID, index int) (f sdk.SeccompFilter, err error) {
	get := func(request int, addr uintptr, data unsafe.Pointer) (uintptr, error) {
		n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, uintptr(data), 0, 0)
		if errno != 0 {
			return 0, errno
		}
		return n, nil
	}
	count, err := get(ptraceGetFilter, uintptr(index), nil)
	if err != nil {
		return f, err
	}
	if count == 0 || count > unix.BPF_MAXINSNS {
		return f, fmt.Errorf("%d instructions: %w", count, sdk.ErrCorrupt)
	}
	f.Program = make([]byte, count*sockFilterSize)
	if _, err := get(ptraceGetFilter, uintptr(index), unsafe.Pointer(&f.Program[0])); err != nil {
		return f, err
	}
	// struct seccomp_metadata: filter_off, flags.
	meta := [2]uint64{uint64(index)}
	_, err = get(ptraceGetMetadata, unsafe.Sizeof(meta), unsafe.Pointer(&meta))
	f.Flags = meta[1]
	return f, err
}
