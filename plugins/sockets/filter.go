package sockets

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/kern"
)

// errNoSource: the socket has a program that the kernel does not give back.
var errNoSource = errors.New("a BPF program is attached")

// filterInsn is the size of struct sock_filter.
const filterInsn = 8

// readFilter returns the classic BPF program of a socket (SO_ATTACH_FILTER) as
// an array of struct sock_filter; nil if there is none. Unlike for other
// options, the length that getsockopt(2) takes and returns is a count.
func readFilter(fd int) ([]byte, error) {
	n, err := kern.GetSockopt(fd, unix.SOL_SOCKET, unix.SO_GET_FILTER, nil)
	if errors.Is(err, unix.EACCES) {
		return nil, errNoSource
	}
	if notThere(err) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read filter: %w", err)
	}
	prog := make([]byte, n*filterInsn)
	size := uint32(n)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_GET_FILTER,
		uintptr(unsafe.Pointer(&prog[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("read filter: %w", errno)
	}
	return prog, nil
}

// attachFilter attaches a program that [readFilter] returned.
func attachFilter(fd int, prog []byte) error {
	if len(prog) == 0 {
		return nil
	}
	insns := make([]unix.SockFilter, len(prog)/filterInsn)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&insns[0])), len(insns)*filterInsn), prog)
	fprog := unix.SockFprog{Len: uint16(len(insns)), Filter: &insns[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}
