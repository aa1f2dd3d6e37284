package tracetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// signalsAtOnce is how many queued signals are read by one call.
const signalsAtOnce = 32

func ptrace(request, tid int, addr, data uintptr) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), addr, data, 0, 0)
	if errno != 0 {
		return fmt.Errorf("ptrace %#x of thread %d: %w", request, tid, errno)
	}
	return nil
}

// wait waits until the thread stops.
func wait(tid int) (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(tid, &ws, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && !ws.Stopped() {
			err = fmt.Errorf("ended with status %#x", int(ws))
		}
		if err != nil {
			return ws, fmt.Errorf("wait for thread %d: %w", tid, err)
		}
		return ws, nil
	}
}

func (h *Host) seize(pid int) error {
	const options = unix.PTRACE_O_EXITKILL | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACESYSGOOD
	// As the real host, but for all tasks; it needs CAP_SYS_ADMIN.
	err := ptrace(unix.PTRACE_SEIZE, pid, 0, options|unix.PTRACE_O_SUSPEND_SECCOMP)
	if errors.Is(err, unix.EPERM) {
		err = ptrace(unix.PTRACE_SEIZE, pid, 0, options)
	}
	if err != nil {
		return err
	}
	if err := ptrace(unix.PTRACE_INTERRUPT, pid, 0, 0); err != nil {
		return err
	}
	if _, err := wait(pid); err != nil {
		return err
	}
	return block(pid)
}

// block blocks all signals of a stopped thread.
func block(tid int) error {
	mask := ^uint64(0)
	return ptrace(unix.PTRACE_SETSIGMASK, tid, 8, uintptr(unsafe.Pointer(&mask)))
}

// syscall runs one system call in a stopped thread, which is stopped again
// right after it.
func (h *Host) syscall(tid, nr int, args [6]uint64) (int64, error) {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return 0, fmt.Errorf("read registers: %w", err)
	}
	regs.Rip, regs.Orig_rax, regs.Rax = gadget, ^uint64(0), uint64(nr)
	regs.Rdi, regs.Rsi, regs.Rdx = args[0], args[1], args[2]
	regs.R10, regs.R8, regs.R9 = args[3], args[4], args[5]
	if err := unix.PtraceSetRegs(tid, &regs); err != nil {
		return 0, fmt.Errorf("write registers: %w", err)
	}
	for stops := 0; stops < 2; { // entry and exit
		if err := ptrace(unix.PTRACE_SYSCALL, tid, 0, 0); err != nil {
			return 0, err
		}
		ws, err := wait(tid)
		if err != nil {
			return 0, err
		}
		if ws.StopSignal() == unix.SIGTRAP|0x80 {
			stops++
		}
	}
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return 0, fmt.Errorf("read registers: %w", err)
	}
	return int64(regs.Rax), nil
}

func (h *Host) copyIn(tid int, addr uint64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &data[0], Len: uint64(len(data))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(data)}}
	_, err := unix.ProcessVMWritev(h.pids[tid], local, remote, 0)
	return err
}

func (h *Host) copyOut(tid int, addr uint64, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	local := []unix.Iovec{{Base: &data[0], Len: uint64(len(data))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(data)}}
	_, err := unix.ProcessVMReadv(h.pids[tid], local, remote, 0)
	return err
}

// Snapshot implements sdk.Host: nobody is copied here.
func (h *Host) Snapshot(_ context.Context, pids []int) ([]sdk.Snapshot, error) {
	out := make([]sdk.Snapshot, len(pids))
	for i := range out {
		out[i].Err = sdk.ErrUnsupported
	}
	return out, nil
}

// Trace implements sdk.Host.
func (h *Host) Trace(_ context.Context, tids []int) (infos []sdk.TraceInfo, err error) {
	h.do(func() {
		for _, tid := range tids {
			info := sdk.TraceInfo{TID: tid}
			if info.Pending, err = peekSignals(tid, 0); err != nil {
				return
			}
			if info.SharedPending, err = peekSignals(tid, unix.PTRACE_PEEKSIGINFO_SHARED); err != nil {
				return
			}
			if info.Rseq, err = rseqOf(tid); err != nil {
				return
			}
			if info.SeccompFilters, err = seccompFilters(tid); err != nil {
				return
			}
			infos = append(infos, info)
		}
	})
	return infos, err
}

// peekSignals reads a queue: struct ptrace_peeksiginfo_args is
//
//	0 off   8 flags (4)   12 nr (4)
//
// The call ends early when a signal is pending for the tracer, so the end of
// the queue is where there is nothing more.
func peekSignals(tid int, flags uint32) (queue [][]byte, err error) {
	for {
		var args [16]byte
		binary.LittleEndian.PutUint64(args[:], uint64(len(queue)))
		binary.LittleEndian.PutUint32(args[8:], flags)
		binary.LittleEndian.PutUint32(args[12:], signalsAtOnce)
		buf := make([]byte, signalsAtOnce*128)
		n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_PEEKSIGINFO, uintptr(tid),
			uintptr(unsafe.Pointer(&args)), uintptr(unsafe.Pointer(&buf[0])), 0, 0)
		if errno != 0 {
			return nil, fmt.Errorf("peek signals of thread %d: %w", tid, errno)
		}
		if n == 0 {
			return queue, nil
		}
		for i := range int(n) {
			queue = append(queue, buf[i*128:(i+1)*128])
		}
	}
}

// rseqOf reads struct ptrace_rseq_configuration:
//
//	0 address   8 size (4)   12 signature (4)   16 flags (4)   20 padding
func rseqOf(tid int) (*sdk.Rseq, error) {
	var b [24]byte
	if err := ptrace(unix.PTRACE_GET_RSEQ_CONFIGURATION, tid, uintptr(len(b)), uintptr(unsafe.Pointer(&b))); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	r := sdk.Rseq{Addr: le.Uint64(b[:]), Size: le.Uint32(b[8:]), Signature: le.Uint32(b[12:]), Flags: le.Uint32(b[16:])}
	if r.Addr == 0 {
		return nil, nil
	}
	return &r, nil
}

// seccompFilters reads the filters of a thread, which has none if the kernel
// says EINVAL. struct seccomp_metadata is
//
//	0 index   8 flags
func seccompFilters(tid int) (filters []sdk.SeccompFilter, err error) {
	for {
		var program [unix.BPF_MAXINSNS * 8]byte
		meta := [2]uint64{uint64(len(filters))}
		n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(tid),
			uintptr(len(filters)), uintptr(unsafe.Pointer(&program)), 0, 0)
		if errno == unix.ENOENT || errno == unix.EINVAL || errno == unix.EACCES {
			return filters, nil
		}
		if errno != 0 {
			return nil, fmt.Errorf("filter %d of thread %d: %w", len(filters), tid, errno)
		}
		if err := ptrace(unix.PTRACE_SECCOMP_GET_METADATA, tid, unsafe.Sizeof(meta), uintptr(unsafe.Pointer(&meta))); err != nil {
			return nil, err
		}
		filters = append(filters, sdk.SeccompFilter{Program: program[:n*8], Flags: meta[1]})
	}
}

// killAll ends every process and reaps its threads, the main one last.
func (h *Host) killAll() {
	for tid, pid := range h.pids {
		if tid == pid {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	for tid, pid := range h.pids {
		if tid != pid {
			reap(tid)
		}
	}
	for tid, pid := range h.pids {
		if tid == pid {
			reap(pid)
		}
	}
}

func reap(tid int) {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(tid, &ws, unix.WALL, nil)
		if err == nil && ws.Stopped() {
			_ = ptrace(unix.PTRACE_CONT, tid, 0, 0)
			continue
		}
		if err != unix.EINTR {
			return
		}
	}
}
