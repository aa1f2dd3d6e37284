// Package blocks cuts a stream of bytes into blocks, works on them on all
// processors, and hands them on in their order.
package blocks

import (
	"runtime"
	"sync"
)

// Size is the size of a block; only the last one may be smaller.
const Size = 1 << 20

// Block is a part of the stream, and what the work on it has made.
type Block[T any] struct {
	Content []byte
	Result  T
	ready   chan struct{}
}

// Writer takes the stream. It is for one goroutine.
type Writer[T any] struct {
	work    func(*Block[T])
	deliver func(*Block[T]) error

	current []byte
	queue   chan *Block[T] // in the order of the stream
	jobs    chan *Block[T]
	workers sync.WaitGroup
	done    chan struct{} // closed when everything was delivered
	buffers sync.Pool

	mu  sync.Mutex
	err error
}

// NewWriter makes a writer. work is called from several goroutines; deliver from
// one, in order, and not again after an error. The blocks are theirs until deliver
// returns. Up to buffered bytes wait before Write blocks.
func NewWriter[T any](buffered int64, work func(*Block[T]), deliver func(*Block[T]) error) *Writer[T] {
	n := runtime.GOMAXPROCS(0)
	depth := max(buffered/Size, int64(2*n))
	w := &Writer[T]{
		work: work, deliver: deliver, done: make(chan struct{}),
		queue: make(chan *Block[T], depth), jobs: make(chan *Block[T], depth),
	}
	w.buffers.New = func() any { return new([Size]byte) }
	for range n {
		w.workers.Go(func() {
			for b := range w.jobs {
				w.work(b)
				close(b.ready)
			}
		})
	}
	go w.handOn()
	return w
}

// handOn delivers blocks.
func (w *Writer[T]) handOn() {
	defer close(w.done)
	for b := range w.queue {
		<-b.ready
		if w.failure() != nil {
			continue
		}
		if err := w.deliver(b); err != nil {
			w.mu.Lock()
			w.err = err
			w.mu.Unlock()
		}
		w.buffers.Put((*[Size]byte)(b.Content[:Size]))
	}
}

func (w *Writer[T]) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Write takes p, which is the caller's again when it returns. An error of an
// earlier block may show.
func (w *Writer[T]) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := w.failure(); err != nil {
			return n, err
		}
		if w.current == nil {
			w.current = w.buffers.Get().(*[Size]byte)[:0]
		}
		some := min(len(p)-n, Size-len(w.current))
		w.current = append(w.current, p[n:n+some]...)
		n += some
		if len(w.current) == Size {
			w.submit()
		}
	}
	return n, nil
}

func (w *Writer[T]) submit() {
	b := &Block[T]{Content: w.current, ready: make(chan struct{})}
	w.current = nil
	w.queue <- b
	w.jobs <- b
}

// Close hands on what is left, and returns the first error. It must be called,
// also by who gives the stream up.
func (w *Writer[T]) Close() error {
	if len(w.current) > 0 {
		w.submit()
	}
	close(w.jobs)
	close(w.queue)
	w.workers.Wait()
	<-w.done
	return w.err
}
