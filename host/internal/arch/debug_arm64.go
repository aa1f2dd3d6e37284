package arch

import (
	"fmt"

	"github.com/firn-cr/firn/sdk"
)

// GetDebugRegs returns nil: hardware breakpoints of arm64 (NT_ARM_HW_BREAK) are
// not carried.
func GetDebugRegs(int) ([]uint64, error) { return nil, nil }

// SetDebugRegs has nothing to set.
func SetDebugRegs(int, []uint64) error { return nil }

// CheckDebugRegs tells whether an image has none.
func CheckDebugRegs(regs []uint64) error {
	if n := len(regs); n != 0 {
		return fmt.Errorf("%d debug registers: %w", n, sdk.ErrCorrupt)
	}
	return nil
}
