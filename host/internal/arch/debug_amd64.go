package arch

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

const (
	// offDebugReg is where struct user (sys/user.h) has DR0.
	offDebugReg = 848
	control     = 7 // DR7 arms the others
	addresses   = 4 // DR0 to DR3
)

// GetDebugRegs returns the watchpoints and breakpoints that a debugger has set and
// left in a stopped task: DR0 to DR3 and DR7; nil if none is armed.
func GetDebugRegs(tid int) ([]uint64, error) {
	armed, err := peekDebug(tid, control)
	if err != nil || armed == 0 {
		return nil, err
	}
	var regs []uint64
	for n := range addresses {
		v, err := peekDebug(tid, n)
		if err != nil {
			return nil, err
		}
		regs = append(regs, v)
	}
	return append(regs, armed), nil
}

// SetDebugRegs arms a stopped task that has none armed, as GetDebugRegs has seen it.
func SetDebugRegs(tid int, regs []uint64) error {
	if len(regs) == 0 {
		return nil
	}
	if err := CheckDebugRegs(regs); err != nil {
		return err
	}
	for n, v := range regs[:addresses] {
		if err := pokeDebug(tid, n, v); err != nil {
			return err
		}
	}
	return pokeDebug(tid, control, regs[addresses])
}

// CheckDebugRegs tells whether an image has as many as there are.
func CheckDebugRegs(regs []uint64) error {
	if n := len(regs); n != 0 && n != addresses+1 {
		return fmt.Errorf("%d debug registers: %w", n, sdk.ErrCorrupt)
	}
	return nil
}

func peekDebug(tid, number int) (v uint64, err error) {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_PEEKUSR, uintptr(tid), uintptr(offDebugReg+8*number),
		uintptr(unsafe.Pointer(&v)), 0, 0)
	if errno != 0 {
		return 0, fmt.Errorf("read debug register %d: %w", number, errno)
	}
	return v, nil
}

func pokeDebug(tid, number int, v uint64) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_POKEUSR, uintptr(tid), uintptr(offDebugReg+8*number), uintptr(v), 0, 0)
	if errno != 0 {
		return fmt.Errorf("set debug register %d to %#x: %w", number, v, errno)
	}
	return nil
}
