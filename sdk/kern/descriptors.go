package kern

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Descriptors duplicates file descriptors of other processes into this one
// with pidfd_getfd(2), which needs the right to trace them (since Linux 5.6).
// It keeps one pidfd per process until Close. It is safe for concurrent use;
// the zero Descriptors is ready.
type Descriptors struct {
	mu     sync.Mutex
	pidfds map[int]int
}

// Get returns a close-on-exec duplicate of descriptor fd of the process with
// the given threads, main thread first. A main thread that has ended has no
// descriptors any more; the next thread is asked then (since Linux 6.9).
func (d *Descriptors) Get(fd int, tids ...int) (dup int, err error) {
	err = unix.ESRCH
	for i, tid := range tids {
		var pidfd int
		if pidfd, err = d.pidfd(tid, i > 0); err != nil {
			return -1, err
		}
		if dup, err = unix.PidfdGetfd(pidfd, fd, 0); err == nil {
			return dup, nil
		}
		if !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EBADF) {
			break
		}
	}
	return -1, err
}

func (d *Descriptors) pidfd(tid int, thread bool) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if fd, ok := d.pidfds[tid]; ok {
		return fd, nil
	}
	flags := 0
	if thread {
		flags = unix.PIDFD_THREAD
	}
	fd, err := unix.PidfdOpen(tid, flags)
	if err != nil {
		return -1, err
	}
	if d.pidfds == nil {
		d.pidfds = map[int]int{}
	}
	d.pidfds[tid] = fd
	return fd, nil
}

// Close closes the pidfds. Descriptors that Get returned stay open.
func (d *Descriptors) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, fd := range d.pidfds {
		unix.Close(fd)
	}
	d.pidfds = nil
}

// tableSize is more than a host or a plugin has open at once, but for very large
// trees.
const tableSize = 1024

// GrowTable makes room for 1,024 descriptors in this process. Without it the kernel
// doubles the table when it is full, at 64 first, and every time waits for an
// RCU grace period if the process has threads: 10 ms and more (expand_fdtable in
// fs/file.c). GrowTable waits once; call it in the background, early. A limit on
// descriptors (RLIMIT_NOFILE) below that is an error.
func GrowTable() error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /: %w", err)
	}
	defer unix.Close(fd)
	last, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, tableSize-1)
	if err != nil {
		return fmt.Errorf("make room for %d descriptors: %w", tableSize, err)
	}
	return unix.Close(last)
}
