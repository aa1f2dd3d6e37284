package arch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func (s *subject) ptrace(request int, addr uintptr, data []byte) {
	s.t.Helper()
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(s.tid), addr,
		uintptr(unsafe.Pointer(unsafe.SliceData(data))), 0, 0)
	if errno != 0 {
		s.t.Fatalf("ptrace %#x: %v", request, errno)
	}
}
