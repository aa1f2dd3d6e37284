package harness

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfoPID returns si_pid, which x/sys keeps in an opaque part. The layout
// of siginfo_t (sigaction(2)) on 64-bit systems is: si_signo, si_errno,
// si_code, padding, then si_pid at byte 16.
func siginfoPID(info *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), 16)))
}
