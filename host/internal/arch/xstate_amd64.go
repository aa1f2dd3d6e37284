package arch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// The extended state is what XSAVE stores, in the standard (uncompacted)
// format; the layout is of the CPU:
//
//	  0 512 bytes legacy area (x87, SSE); 24 u32 MXCSR; 28 u32 MXCSR mask
//	464 u64 user state components of the kernel (in the notes of ptrace)
//	512 u64 XSTATE_BV: components that are not in their initial state
//	520 u64 XCOMP_BV: 0 in the standard format
//	528 48 zero bytes
//	576 further components at the offsets that CPUID tells
const (
	ntX86Xstate = 0x202
	ntX86Shstk  = 0x204

	offMXCSR     = 24
	offSoftware  = 464
	legacySize   = 512
	offXstateBV  = 512
	offXcompBV   = 520
	xstateHeader = 576
	maxXstate    = 1 << 20

	xfeatureLegacy = 3 // x87 and SSE: always there
	leafXsave      = 0xd
	bitOSXSAVE     = 1 << 27
	mxcsrDefault   = 0xffbf // mask of CPUs that do not tell one
	offMXCSRMask   = 28
)

func cpuid(leaf, sub uint32) (eax, ebx, ecx, edx uint32)
func xgetbv() (eax, edx uint32)

// xsaveLayout is what the CPU tells about the standard format.
type xsaveLayout struct {
	xcr0 uint64
	end  [64]int // end of each component in bytes; 0 if the CPU lacks it
}

var cpuLayout = sync.OnceValue(func() xsaveLayout {
	var l xsaveLayout
	if leaf, _, _, _ := cpuid(0, 0); leaf < leafXsave {
		return l
	}
	if _, _, ecx, _ := cpuid(1, 0); ecx&bitOSXSAVE == 0 {
		return l
	}
	lo, hi := xgetbv()
	l.xcr0 = uint64(hi)<<32 | uint64(lo)
	for i := uint32(2); i < 63; i++ {
		if l.xcr0&(1<<i) == 0 {
			continue
		}
		size, off, _, _ := cpuid(leafXsave, i)
		l.end[i] = int(size) + int(off)
	}
	return l
})

// size is the number of bytes that hold the given components.
func (l *xsaveLayout) size(features uint64) int {
	n := xstateHeader
	for f := features &^ xfeatureLegacy; f != 0; f &= f - 1 {
		n = max(n, l.end[bits.TrailingZeros64(f)])
	}
	return n
}

// GetXState reads the extended state of a stopped task.
func GetXState(tid int) ([]byte, error) {
	for size := 4096; size <= maxXstate; size *= 4 {
		b := make([]byte, size)
		n, err := getRegset(tid, ntX86Xstate, b)
		if err != nil {
			return nil, fmt.Errorf("get extended state of task %d: %w", tid, err)
		}
		// A full buffer may have been too small: the kernel cuts off.
		if n < size {
			return bytes.Clone(b[:n]), nil
		}
	}
	return nil, fmt.Errorf("get extended state of task %d: more than %d bytes: %w", tid, maxXstate, sdk.ErrUnsupported)
}

// SetXState writes the extended state of a stopped task. State that was saved
// on a CPU with more or fewer components is cut or extended to what this kernel
// wants, as long as no component that is in use is lost.
func SetXState(tid int, b []byte) error {
	if err := CheckXState(b); err != nil {
		return fmt.Errorf("set extended state of task %d: %w", tid, err)
	}
	err := setRegset(tid, ntX86Xstate, b)
	if errors.Is(err, unix.EFAULT) || errors.Is(err, unix.EINVAL) {
		err = setResized(tid, b)
	}
	if err != nil {
		return fmt.Errorf("set extended state of task %d: %w", tid, err)
	}
	return nil
}

func setResized(tid int, b []byte) error {
	now, err := GetXState(tid)
	if err != nil {
		return err
	}
	if used := xstateUsed(b); used > len(now) {
		return fmt.Errorf("%d bytes in use, the kernel takes %d: %w", used, len(now), sdk.ErrUnsupported)
	}
	resized := make([]byte, len(now))
	copy(resized, b)
	return setRegset(tid, ntX86Xstate, resized)
}

// CheckTask tells whether placed code and frames work for a stopped task: not
// if it has a shadow stack ([sdk.ErrUnsupported]), because neither the return
// of a gadget nor rt_sigreturn would find what they want there.
func CheckTask(tid int) error {
	var ssp [8]byte
	if _, err := getRegset(tid, ntX86Shstk, ssp[:]); err == nil {
		return fmt.Errorf("task %d has a shadow stack: %w", tid, sdk.ErrUnsupported)
	}
	return nil
}

// CheckXState tells whether extended state can be loaded on this CPU. Damaged
// state is [sdk.ErrCorrupt], state that this CPU lacks [sdk.ErrUnsupported].
func CheckXState(b []byte) error {
	if len(b) < xstateHeader || len(b) > maxXstate {
		return fmt.Errorf("extended state: %d bytes: %w", len(b), sdk.ErrCorrupt)
	}
	le := binary.LittleEndian
	if v := le.Uint64(b[offXcompBV:]); v != 0 {
		return fmt.Errorf("extended state: compacted format %#x: %w", v, sdk.ErrCorrupt)
	}
	for _, v := range b[offXcompBV+8 : xstateHeader] {
		if v != 0 {
			return fmt.Errorf("extended state: reserved bytes in use: %w", sdk.ErrCorrupt)
		}
	}
	l := cpuLayout()
	features := le.Uint64(b[offXstateBV:])
	if missing := features &^ l.xcr0; missing != 0 {
		return fmt.Errorf("extended state: this CPU lacks state components %#x: %w", missing, sdk.ErrUnsupported)
	}
	if want := l.size(features); len(b) < want {
		return fmt.Errorf("extended state: %d bytes, components %#x need %d: %w", len(b), features, want, sdk.ErrCorrupt)
	}
	mask := le.Uint32(b[offMXCSRMask:])
	if mask == 0 {
		mask = mxcsrDefault
	}
	if mxcsr := le.Uint32(b[offMXCSR:]); mxcsr&^mask != 0 || mxcsr>>16&^2 != 0 {
		return fmt.Errorf("extended state: MXCSR %#x: %w", mxcsr, sdk.ErrCorrupt)
	}
	return nil
}

// xstateUsed is the size of the components that are in use.
func xstateUsed(b []byte) int {
	l := cpuLayout()
	return l.size(binary.LittleEndian.Uint64(b[offXstateBV:]))
}
