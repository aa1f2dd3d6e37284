package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// output is where a [Writer] puts its bytes.
type output interface {
	// writeAt writes the buffers one behind the other from off on.
	writeAt(off uint64, bufs ...[]byte) error
}

// Preallocation: a buffered write into allocated room takes two thirds of the
// time on ext4, because the kernel need not reserve blocks page by page.
const (
	preallocFrom = 4 << 20 // images that are smaller do without
	preallocMin  = 8 << 20
	preallocMax  = 64 << 20
)

// fileOutput writes at any offset, from several goroutines.
type fileOutput struct {
	f  *os.File
	fd int

	mu        sync.Mutex
	allocated uint64 // end of what was allocated
	failed    bool   // the file system cannot, or is full
}

func newFileOutput(f *os.File) *fileOutput { return &fileOutput{f: f, fd: int(f.Fd())} }

func (o *fileOutput) writeAt(off uint64, bufs ...[]byte) error {
	var size uint64
	for _, b := range bufs {
		size += uint64(len(b))
	}
	o.allocate(off + size)
	for len(bufs) > 0 {
		if len(bufs[0]) == 0 {
			bufs = bufs[1:]
			continue
		}
		n, err := unix.Pwritev(o.fd, bufs, int64(off))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write at offset %d: %w", off, err)
		}
		if n == 0 {
			return fmt.Errorf("write at offset %d: %w", off, io.ErrShortWrite)
		}
		off += uint64(n)
		bufs = skip(bufs, n)
	}
	return nil
}

// allocate takes room for the file up to end and beyond. What is too much is
// given back by truncate. That it fails means nothing: a write that does not
// find room says so itself.
func (o *fileOutput) allocate(end uint64) {
	if end < preallocFrom {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failed || end <= o.allocated {
		return
	}
	step := min(max(end, preallocMin), preallocMax)
	from := o.allocated
	to := end + step
	if err := unix.Fallocate(o.fd, 0, int64(from), int64(to-from)); err != nil {
		o.failed = !errors.Is(err, unix.EINTR)
		return
	}
	o.allocated = to
}

// truncate ends the file at length.
func (o *fileOutput) truncate(length uint64) error {
	if err := o.f.Truncate(int64(length)); err != nil {
		return fmt.Errorf("truncate to %d bytes: %w", length, err)
	}
	return nil
}

// skip drops the first n bytes. It changes the elements of bufs.
func skip(bufs [][]byte, n int) [][]byte {
	for n > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

// pipeOutput writes strictly in sequence.
type pipeOutput struct {
	w   io.Writer
	pos uint64
}

func (o *pipeOutput) writeAt(off uint64, bufs ...[]byte) error {
	if off != o.pos {
		return fmt.Errorf("write at offset %d of a pipe that is at %d", off, o.pos)
	}
	for _, b := range bufs {
		n, err := o.w.Write(b)
		o.pos += uint64(n)
		if err != nil {
			return fmt.Errorf("write at offset %d: %w", o.pos, err)
		}
	}
	return nil
}
