package kern

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerPID returns the process at the other end of a connected unix socket: the
// one that called connect(2), or, seen from there, listen(2). The kernel
// remembers it, so it cannot be forged; the process may have ended since.
// unix(7), SO_PEERCRED.
func PeerPID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("peer of a socket: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err == nil {
		err = credErr
	}
	if err != nil {
		return 0, fmt.Errorf("peer of a socket: %w", err)
	}
	return int(cred.Pid), nil
}
