package kern

import (
	"errors"
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
