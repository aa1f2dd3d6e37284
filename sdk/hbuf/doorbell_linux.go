package hbuf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const spins = 2000 // loads of one cache line: a few microseconds

// doorbell wakes the other side through an eventfd. The other side may read
// and write the eventfd and change its flags at will, so no call on it may
// depend on either.
type doorbell struct{ f *os.File }

// newDoorbell creates an eventfd.
func newDoorbell(name string) (doorbell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return doorbell{}, fmt.Errorf("create doorbell: eventfd: %w", err)
	}
	return doorbell{os.NewFile(uintptr(fd), name)}, nil
}

// dupDoorbell takes a descriptor of its own of an eventfd.
func dupDoorbell(f *os.File) (doorbell, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return doorbell{}, fmt.Errorf("duplicate doorbell: %w", err)
	}
	var dup int
	var dupErr error
	err = conn.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, dupErr); err != nil {
		return doorbell{}, fmt.Errorf("duplicate doorbell: %w", err)
	}
	return doorbell{os.NewFile(uintptr(dup), f.Name())}, nil
}

// control runs fn on the descriptor, which stays open meanwhile and does not
// block.
func (d doorbell) control(fn func(fd int)) {
	conn, err := d.f.SyscallConn()
	if err != nil {
		return // closed: nobody waits any more
	}
	_ = conn.Control(func(fd uintptr) {
		_, _ = unix.FcntlInt(fd, unix.F_SETFL, unix.O_RDWR|unix.O_NONBLOCK)
		fn(int(fd))
	})
}

// ring wakes whoever sleeps in await, at the latest at the next call of it.
func (d doorbell) ring() {
	one := [8]byte{0: 1}
	d.control(func(fd int) { _, _ = unix.Write(fd, one[:]) })
}

// ringIf rings if the flag says that the other side sleeps.
func (d doorbell) ringIf(sleeps *atomic.Uint64) {
	if sleeps.Load() != 0 && sleeps.CompareAndSwap(1, 0) {
		d.ring()
	}
}

// sleep blocks until the bell rings.
func (d doorbell) sleep() {
	var count [8]byte
	d.control(func(fd int) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(poll, -1); n > 0 {
			_, _ = unix.Read(fd, count[:])
		}
	})
}

// await returns nil as soon as ready is true. It looks for a short time before
// it sets the flag and sleeps. Only one goroutine per doorbell may wait.
func (d doorbell) await(ctx context.Context, sleeps *atomic.Uint64, ready func() bool) error {
	for range spins {
		if ready() {
			return nil
		}
	}
	stop := context.AfterFunc(ctx, d.ring)
	defer stop()
	for {
		sleeps.Store(1)
		if ready() {
			sleeps.Store(0)
			return nil
		}
		if ctx.Err() != nil {
			sleeps.Store(0)
			return context.Cause(ctx)
		}
		d.sleep()
		sleeps.Store(0)
	}
}
