package task

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// Requests of linux/ptrace.h that x/sys does not name everywhere.
const (
	ptraceSeize               = 0x4206
	ptraceInterrupt           = 0x4207
	ptracePeekSigInfo         = 0x4209
	ptraceGetSigMask          = 0x420a
	ptraceSetSigMask          = 0x420b
	ptraceGetRseqConf         = 0x420f
	ptraceGetDispatch         = 0x4211
	peekSigInfoShared         = 1
	eventFork                 = 1
	eventVfork                = 2
	eventClone                = 3
	eventStop                 = 128
	optTraceSysGood           = 0x1
	optTraceFork              = 0x2
	optTraceVfork             = 0x4
	optTraceClone             = 0x8
	optExitKill               = 0x100000
	optSuspendSeccomp         = 0x200000
	syscallStopSignal         = unix.SIGTRAP | 0x80
	sigInfoSize               = 128
	allSignals                = ^uint64(0)
	sigSetSize        uintptr = 8
)

func ptrace(req int, tid HostPID, addr, data uintptr) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, data, 0, 0)
	if errno == 0 {
		return nil
	}
	if errno == unix.ESRCH {
		return fmt.Errorf("%w: %w", errno, sdk.ErrTaskGone)
	}
	return errno
}

func seize(tid HostPID, opts uintptr) error { return ptrace(ptraceSeize, tid, 0, opts) }
func interrupt(tid HostPID) error           { return ptrace(ptraceInterrupt, tid, 0, 0) }

// setOptions sets the options of a stopped tracee, which its children inherit.
func setOptions(tid HostPID, opts uintptr) error {
	return ptrace(unix.PTRACE_SETOPTIONS, tid, 0, opts)
}

func cont(tid HostPID, sig unix.Signal) error {
	return ptrace(unix.PTRACE_CONT, tid, 0, uintptr(sig))
}

func contSyscall(tid HostPID, sig unix.Signal) error {
	return ptrace(unix.PTRACE_SYSCALL, tid, 0, uintptr(sig))
}

func detach(tid HostPID, sig unix.Signal) error {
	return ptrace(unix.PTRACE_DETACH, tid, 0, uintptr(sig))
}

func eventMessage(tid HostPID) (uint64, error) {
	var msg uint64
	err := ptrace(unix.PTRACE_GETEVENTMSG, tid, 0, uintptr(unsafe.Pointer(&msg)))
	return msg, err
}

// signalMask reads the set of blocked signals. For a task inside sigsuspend or
// ppoll this is the mask that it had before (PTRACE_GETSIGMASK, since 4.18).
func signalMask(tid HostPID) (uint64, error) {
	var mask uint64
	err := ptrace(ptraceGetSigMask, tid, sigSetSize, uintptr(unsafe.Pointer(&mask)))
	return mask, err
}

func setSignalMask(tid HostPID, mask uint64) error {
	return ptrace(ptraceSetSigMask, tid, sigSetSize, uintptr(unsafe.Pointer(&mask)))
}

// peekArgs is struct ptrace_peeksiginfo_args.
type peekArgs struct {
	off   uint64
	flags uint32
	nr    int32
}

// pendingSignals reads a queue of pending signals without taking them.
func pendingSignals(tid HostPID, shared bool) ([][]byte, error) {
	const batch = 32
	var out [][]byte
	var buf [batch * sigInfoSize]byte
	for {
		args := peekArgs{off: uint64(len(out)), nr: batch}
		if shared {
			args.flags = peekSigInfoShared
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, ptracePeekSigInfo, uintptr(tid),
			uintptr(unsafe.Pointer(&args)), uintptr(unsafe.Pointer(&buf[0])), 0, 0)
		if errno != 0 {
			return nil, fmt.Errorf("read pending signals: %w", errno)
		}
		for i := range int(n) {
			out = append(out, bytes.Clone(buf[i*sigInfoSize:(i+1)*sigInfoSize]))
		}
		// The kernel also returns early when the tracer has a signal
		// pending, as the Go runtime sends them: only nothing is the end.
		if n == 0 {
			return out, nil
		}
	}
}

// rseqConf is struct ptrace_rseq_configuration.
type rseqConf struct {
	addr             uint64
	size, sig, flags uint32
	_                uint32
}

// rseqOf reads the registration of restartable sequences; nil if there is none
// or the kernel cannot tell (PTRACE_GET_RSEQ_CONFIGURATION, since 5.13).
func rseqOf(tid HostPID) (*sdk.Rseq, error) {
	var c rseqConf
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, ptraceGetRseqConf, uintptr(tid),
		unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c)), 0, 0)
	if errors.Is(errno, unix.EIO) || errors.Is(errno, unix.EINVAL) {
		return nil, nil
	}
	if errno != 0 {
		return nil, fmt.Errorf("read rseq configuration: %w", errno)
	}
	if n < unsafe.Sizeof(c)-4 || c.addr == 0 {
		return nil, nil
	}
	return &sdk.Rseq{Addr: c.addr, Size: c.size, Signature: c.sig, Flags: c.flags}, nil
}

// dispatchConf is struct ptrace_sud_config.
type dispatchConf struct {
	mode, selector, offset, len uint64
}

// userDispatch tells whether a thread handles its system calls itself
// (PR_SET_SYSCALL_USER_DISPATCH; readable since 6.4, off before as far as
// anybody can tell).
func userDispatch(tid HostPID) (bool, error) {
	var c dispatchConf
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, ptraceGetDispatch, uintptr(tid),
		unsafe.Sizeof(c), uintptr(unsafe.Pointer(&c)), 0, 0)
	if errors.Is(errno, unix.EIO) || errors.Is(errno, unix.EINVAL) {
		return false, nil
	}
	if errno != 0 {
		return false, fmt.Errorf("read system call dispatch: %w", errno)
	}
	return c.mode != 0, nil
}
