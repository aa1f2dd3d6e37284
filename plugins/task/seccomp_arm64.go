package task

import "golang.org/x/sys/unix"

// auditArch is what seccomp_data says of a native system call.
const auditArch = unix.AUDIT_ARCH_AARCH64
