package seekable

import (
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	// frameContent is how much goes into a frame: enough for the ratio not to
	// suffer, and what has to be decompressed to read a byte.
	frameContent = 1 << 20
	// maxContent is the most that a reader accepts.
	maxContent = 64 << 20
)

// Writer compresses what is written to it, on all processors. It is for one
// goroutine.
type Writer struct {
	out     io.Writer
	current []byte
	queue   chan *job // in the order of the file
	jobs    chan *job
	workers sync.WaitGroup
	done    chan struct{} // closed when everything was written
	buffers sync.Pool

	mu      sync.Mutex
	err     error
	frames  []frame
	written int64
}

// job is one frame on its way.
type job struct {
	content []byte
	packed  []byte
	ready   chan struct{}
}

// NewWriter writes to out with a level of zstd(1), from 1 to 22. Up to buffered
// bytes wait to be compressed before Write blocks.
func NewWriter(out io.Writer, level int, buffered int64) (*Writer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	depth := max(buffered/frameContent, int64(2*runtime.GOMAXPROCS(0)))
	w := &Writer{out: out, queue: make(chan *job, depth), jobs: make(chan *job, depth), done: make(chan struct{})}
	w.buffers.New = func() any { return make([]byte, 0, frameContent) }
	for range runtime.GOMAXPROCS(0) {
		w.workers.Go(func() {
			for j := range w.jobs {
				j.packed = enc.EncodeAll(j.content, nil)
				close(j.ready)
			}
		})
	}
	go w.write()
	return w, nil
}

// write writes frames in their order.
func (w *Writer) write() {
	defer close(w.done)
	var content int64
	for j := range w.queue {
		<-j.ready
		if w.failure() != nil {
			continue
		}
		_, err := w.out.Write(j.packed)
		w.mu.Lock()
		w.err = err
		w.frames = append(w.frames, frame{w.written, int64(len(j.packed)), content, int64(len(j.content))})
		w.written += int64(len(j.packed))
		w.mu.Unlock()
		content += int64(len(j.content))
		w.buffers.Put(j.content[:0]) //nolint:staticcheck // a slice header per MiB
	}
}

func (w *Writer) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Write takes p, which is the caller's again when it returns. An error of an
// earlier write may show.
func (w *Writer) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := w.failure(); err != nil {
			return n, err
		}
		if w.current == nil {
			w.current = w.buffers.Get().([]byte)
		}
		some := min(len(p)-n, frameContent-len(w.current))
		w.current = append(w.current, p[n:n+some]...)
		n += some
		if len(w.current) == frameContent {
			w.submit()
		}
	}
	return n, nil
}

func (w *Writer) submit() {
	j := &job{content: w.current, ready: make(chan struct{})}
	w.current = nil
	w.queue <- j
	w.jobs <- j
}

// Close writes what is left and the table. It must be called, also to give the
// file up; it does not close the output.
func (w *Writer) Close() error {
	if len(w.current) > 0 {
		w.submit()
	}
	close(w.jobs)
	close(w.queue)
	w.workers.Wait()
	<-w.done
	if w.err != nil {
		return w.err
	}
	table := encodeTable(w.frames)
	n, err := w.out.Write(table)
	w.written += int64(n)
	return err
}

// Written is how many bytes the output got. It is for after Close.
func (w *Writer) Written() int64 { return w.written }
