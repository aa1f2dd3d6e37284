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

// Get returns a close-on-exec duplicate of descriptor fd of the process that
// task tid is a thread of.
func (d *Descriptors) Get(fd, tid int) (dup int, err error) {
	pidfd, err := d.pidfd(tid)
	if err != nil {
		return -1, err
	}
	return unix.PidfdGetfd(pidfd, fd, 0)
}

func (d *Descriptors) pidfd(tid int) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if fd, ok := d.pidfds[tid]; ok {
		return fd, nil
	}
	fd, err := OpenPidfd(tid)
	if err != nil {
		return -1, err
	}
	if d.pidfds == nil {
		d.pidfds = map[int]int{}
	}
	d.pidfds[tid] = fd
	return fd, nil
}

// OpenPidfd opens a pidfd of a process or, since Linux 6.9, of any of its
// threads (PIDFD_THREAD, pidfd_open(2)). A main thread that has ended while
// others run has no descriptors any more: only another thread will do then.
func OpenPidfd(tid int) (int, error) {
	fd, err := unix.PidfdOpen(tid, 0)
	// A thread that is not the main one was EINVAL before 6.15, ENOENT since.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		fd, err = unix.PidfdOpen(tid, unix.PIDFD_THREAD)
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd of task %d: %w", tid, err)
	}
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
