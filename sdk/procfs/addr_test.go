package procfs

import "unsafe"

// addressOf is the address of mem's first byte.
func addressOf(mem []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&mem[0]))) }
