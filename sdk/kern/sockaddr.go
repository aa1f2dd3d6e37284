package kern

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unixFamily is the size of sun_family, which precedes sun_path.
const unixFamily = 2

// UnixName returns sun_path of a unix socket as it was bound: a path without
// its terminating zero, an abstract name with its leading zero byte, or nothing
// if the socket is not bound. The SockaddrUnix of x/sys cannot tell abstract
// names from paths that start with '@', and cuts them at zero bytes.
func UnixName(fd int) ([]byte, error) { return unixName(unix.SYS_GETSOCKNAME, fd) }

// UnixPeerName is [UnixName] of the peer; ENOTCONN if there is none.
func UnixPeerName(fd int) ([]byte, error) { return unixName(unix.SYS_GETPEERNAME, fd) }

func unixName(call uintptr, fd int) ([]byte, error) {
	var raw [unix.SizeofSockaddrUnix + 2]byte
	size := uint32(len(raw))
	_, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return nil, errno
	}
	if size <= unixFamily || int(size) > len(raw) {
		return nil, nil
	}
	name := raw[unixFamily:size]
	if name[0] != 0 {
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
	}
	return append([]byte(nil), name...), nil
}

// BindUnix binds a unix socket to a name as [UnixName] returns it.
func BindUnix(fd int, name []byte) error { return unixCall(unix.SYS_BIND, fd, name) }

// ConnectUnix connects a unix socket to a name.
func ConnectUnix(fd int, name []byte) error { return unixCall(unix.SYS_CONNECT, fd, name) }

func unixCall(call uintptr, fd int, name []byte) error {
	if len(name) == 0 || len(name) > unix.SizeofSockaddrUnix-unixFamily {
		return unix.EINVAL
	}
	raw := binary.NativeEndian.AppendUint16(make([]byte, 0, unix.SizeofSockaddrUnix+1), unix.AF_UNIX)
	raw = append(raw, name...)
	if name[0] != 0 && len(raw) < unix.SizeofSockaddrUnix {
		raw = append(raw, 0)
	}
	_, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&raw[0])), uintptr(len(raw)))
	if errno != 0 {
		return errno
	}
	return nil
}

// GetSockopt reads an option into b and returns how many bytes it has.
func GetSockopt(fd, level, name int, b []byte) (int, error) {
	size := uint32(len(b))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(size), nil
}

// SetSockopt sets an option to a value of any form.
func SetSockopt(fd, level, name int, value []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// siocgskns is SIOCGSKNS (linux/sockios.h).
const siocgskns = 0x894C

// SocketNamespace opens the network namespace of a socket (since Linux 4.10).
func SocketNamespace(fd int) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), siocgskns, 0)
	if errno != 0 {
		return -1, errno
	}
	unix.CloseOnExec(int(r))
	return int(r), nil
}
