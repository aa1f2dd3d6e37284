package arch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// The extended state is struct user_fpsimd_state, followed by the SVE register
// set of ptrace if the task uses SVE (uapi/asm/ptrace.h):
//
//	  0 32 vector registers of 16 bytes
//	512 u32 fpsr   516 u32 fpcr   520 8 bytes reserved
//	528 u32 size   532 u32 max size   536 u16 vl   538 u16 max vl
//	540 u16 flags  542 u16 zero
//	544 z0-z31 of vl bytes, p0-p15 and ffr of vl/8 bytes; fpsr, fpcr
const (
	ntArmSVE  = 0x405
	ntArmSSVE = 0x40b
	ntArmZA   = 0x40c
	ntArmGCS  = 0x410

	fpsimdSize    = 528
	offFPSR       = 512
	sveHeader     = 16
	offSVEVL      = 8
	offSVEFlags   = 12
	sveRegsActive = 1
	maxSVE        = 1 << 16
)

// GetXState reads the extended state of a stopped task.
func GetXState(tid int) ([]byte, error) {
	b := make([]byte, fpsimdSize+maxSVE)
	n, err := getRegset(tid, ntPrfpreg, b[:fpsimdSize])
	if err == nil && n != fpsimdSize {
		err = fmt.Errorf("%d bytes: %w", n, sdk.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("get extended state of task %d: %w", tid, err)
	}
	n, err = getRegset(tid, ntArmSVE, b[fpsimdSize:])
	switch {
	case lacksRegset(err):
		n = 0
	case err != nil:
		return nil, fmt.Errorf("get SVE state of task %d: %w", tid, err)
	case n < sveHeader || binary.LittleEndian.Uint16(b[fpsimdSize+offSVEFlags:])&sveRegsActive == 0:
		n = 0 // only the vector registers are in use
	}
	return append([]byte(nil), b[:fpsimdSize+n]...), nil
}

func lacksRegset(err error) bool { return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) }

// SetXState writes the extended state of a stopped task.
func SetXState(tid int, b []byte) error {
	if err := CheckXState(b); err != nil {
		return fmt.Errorf("set extended state of task %d: %w", tid, err)
	}
	if err := setRegset(tid, ntPrfpreg, b[:fpsimdSize]); err != nil {
		return fmt.Errorf("set extended state of task %d: %w", tid, err)
	}
	if len(b) == fpsimdSize {
		return nil
	}
	if err := setRegset(tid, ntArmSVE, b[fpsimdSize:]); err != nil {
		return fmt.Errorf("set SVE state of task %d: %w", tid, err)
	}
	return nil
}

// CheckXState tells whether extended state is well formed. Damaged state is
// [sdk.ErrCorrupt].
func CheckXState(b []byte) error {
	if len(b) == fpsimdSize {
		return nil
	}
	if len(b) < fpsimdSize+sveHeader || len(b) > fpsimdSize+maxSVE {
		return fmt.Errorf("extended state: %d bytes: %w", len(b), sdk.ErrCorrupt)
	}
	vl := sveVL(b)
	if vl == 0 || vl%16 != 0 || len(b) < fpsimdSize+sveHeader+sveRegs(vl) {
		return fmt.Errorf("extended state: vectors of %d bytes in %d bytes: %w", vl, len(b), sdk.ErrCorrupt)
	}
	return nil
}

func sveVL(b []byte) int { return int(binary.LittleEndian.Uint16(b[fpsimdSize+offSVEVL:])) }

// sveRegs is the size of z0-z31, p0-p15 and ffr.
func sveRegs(vl int) int { return 32*vl + 17*vl/8 }

// CheckTask tells whether placed code and frames work for a stopped task: not
// if it uses state that they do not carry ([sdk.ErrUnsupported]).
func CheckTask(tid int) error {
	var b [64]byte
	le := binary.LittleEndian
	if n, err := getRegset(tid, ntArmSSVE, b[:]); err == nil && n >= sveHeader && le.Uint16(b[offSVEFlags:])&sveRegsActive != 0 {
		return fmt.Errorf("task %d is in streaming mode: %w", tid, sdk.ErrUnsupported)
	}
	if n, err := getRegset(tid, ntArmZA, b[:]); err == nil && n >= sveHeader && le.Uint32(b[:]) > sveHeader {
		return fmt.Errorf("task %d uses the ZA register: %w", tid, sdk.ErrUnsupported)
	}
	if _, err := getRegset(tid, ntArmGCS, b[:]); err == nil && le.Uint64(b[:])&1 != 0 {
		return fmt.Errorf("task %d has a guarded control stack: %w", tid, sdk.ErrUnsupported)
	}
	return nil
}
