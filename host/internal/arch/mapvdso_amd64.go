package arch

import (
	"errors"

	"golang.org/x/sys/unix"
)

// archMapVDSO64 is ARCH_MAP_VDSO_64 of arch_prctl, in uapi/asm/prctl.h.
const archMapVDSO64 = 0x2003

// HaveMapVDSO asks whether the kernel can map the vdso where a task had it: nil
// if it can. A process that has one already, as this does, gets EEXIST.
func HaveMapVDSO() error {
	_, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, archMapVDSO64, 0, 0)
	if errno == 0 || errors.Is(errno, unix.EEXIST) {
		return nil
	}
	return errno
}
