package arch

import "bytes"

// TapeGadget returns the offset of a system call instruction in [TapeCode].
func TapeGadget() uint64 { return uint64(bytes.Index(tapeCode, syscallInsn)) }
