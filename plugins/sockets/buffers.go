package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
)

// readBuffers returns the sizes that are not those of a new socket; nil if
// none is.
func (d *defaults) readBuffers(fd int, k kindOfSocket) (*socketspb.Buffers, error) {
	usual, err := d.of(k)
	if err != nil {
		return nil, err
	}
	b := &socketspb.Buffers{}
	for name, dst := range map[int]*uint32{unix.SO_SNDBUF: &b.Send, unix.SO_RCVBUF: &b.Receive} {
		v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		if err != nil {
			return nil, fmt.Errorf("read size of buffer: %w", err)
		}
		if was := usual[optionKey{unix.SOL_SOCKET, name}]; len(was) != 4 || binary.NativeEndian.Uint32(was) != uint32(v) {
			*dst = uint32(v)
		}
	}
	// Before Linux 5.14 nothing tells whether a size was set by the program:
	// those that differ are taken as set.
	lock, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK)
	if err == nil {
		b.Lock = uint32(lock)
	}
	if b.Send == 0 && b.Receive == 0 && b.Lock == 0 {
		return nil, nil
	}
	return b, nil
}

// setBuffers sets the sizes, which the kernel doubles for its own accounting.
func setBuffers(fd int, b *socketspb.Buffers) error {
	if b == nil {
		return nil
	}
	if err := setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, b.GetSend()); err != nil {
		return err
	}
	if err := setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, b.GetReceive()); err != nil {
		return err
	}
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, int(b.GetLock()))
	if err != nil && !notThere(err) {
		return fmt.Errorf("lock sizes of buffers: %w", err)
	}
	return nil
}

// setBuffer sets one size. More than the limit of the system needs
// CAP_NET_ADMIN.
func setBuffer(fd, force, plain int, size uint32) error {
	if size == 0 {
		return nil
	}
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, int(size/2))
	if errors.Is(err, unix.EPERM) {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, int(size/2))
	}
	if err != nil {
		return fmt.Errorf("set size of buffer to %d: %w", size, err)
	}
	return nil
}
