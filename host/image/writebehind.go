package image

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// behindStep is how many bytes are gathered before their writing starts.
const behindStep = 16 << 20

// writeBehind starts the writing of dirty pages to the disk while the image
// still grows, so that the fsync at the end has less to wait for.
type writeBehind struct {
	f    *os.File
	wake chan uint64 // end of what may be written
	once sync.Once

	mu      sync.Mutex
	started uint64 // end of what wake was told
}

// WriteBehind makes the kernel write the image to the disk while it grows. It
// shortens a Commit with Sync, but slows the writing of streams down if the
// disk is busy; so call it when the tree no longer stands still. It does
// nothing for a pipe, or if the image is packed.
func (w *Writer) WriteBehind() {
	if w.tmp == nil || w.packer != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.behind != nil {
		return
	}
	b := &writeBehind{f: w.tmp.f, wake: make(chan uint64, 1)}
	w.behind = b
	go b.run()
}

// advance tells that the file is used up to end. It never blocks.
func (b *writeBehind) advance(end uint64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if end < b.started+behindStep {
		return
	}
	select {
	case b.wake <- end:
		b.started = end
	default: // still at work
	}
}

// run ends when stop is called. It does not wait for the disk then.
func (b *writeBehind) run() {
	var done uint64
	conn, err := b.f.SyscallConn()
	for end := range b.wake {
		if err != nil {
			continue
		}
		// Control keeps the file open if it is closed meanwhile. Errors show in
		// the fsync.
		err = conn.Control(func(fd uintptr) {
			unix.SyncFileRange(int(fd), int64(done), int64(end-done), unix.SYNC_FILE_RANGE_WRITE) //nolint:errcheck // see above
		})
		done = end
	}
}

func (b *writeBehind) stop() {
	if b != nil {
		b.once.Do(func() { close(b.wake) })
	}
}
