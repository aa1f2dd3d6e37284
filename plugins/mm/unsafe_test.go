package mm

import (
	"os"
	"strconv"
	"unsafe"
)

// addressOf is the address of b's first byte.
func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

// bigSize is the size of the subject "big" in bytes.
func bigSize() uint64 {
	if mib, err := strconv.Atoi(os.Getenv("FIRN_MM_SIZE")); err == nil && mib > 0 {
		return uint64(mib) << 20
	}
	return 1 << 30
}
