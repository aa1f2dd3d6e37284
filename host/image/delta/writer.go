package delta

import (
	"crypto/sha256"
	"errors"
	"io"
	"runtime"
	"sync"
)

// Page is the size of what is compared.
const Page = 4096

const block = 1 << 20

type digest [sha256.Size]byte

// Base is the content that a new file need not have.
type Base struct {
	parent Parent
	pages  map[digest]uint64
}

// NewBase looks at the pages of a parent. Only whole ones count.
func NewBase(p Parent, r io.ReaderAt) (*Base, error) {
	b := &Base{parent: p, pages: make(map[digest]uint64, p.Length/Page)}
	sums := make([]digest, p.Length/Page)
	var next, mu sync.Mutex
	var at uint64
	var failed error
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			buf := make([]byte, block)
			for {
				next.Lock()
				from := at
				at += block
				next.Unlock()
				if from >= uint64(len(sums))*Page {
					return
				}
				some := buf[:min(block, uint64(len(sums))*Page-from)]
				if _, err := r.ReadAt(some, int64(from)); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				sum(some, sums[from/Page:])
			}
		})
	}
	all.Wait()
	for i, s := range sums {
		if _, ok := b.pages[s]; !ok {
			b.pages[s] = uint64(i) * Page
		}
	}
	return b, failed
}

func sum(content []byte, to []digest) {
	for i := 0; (i+1)*Page <= len(content); i++ {
		to[i] = sha256.Sum256(content[i*Page : (i+1)*Page])
	}
}

// Writer writes a file from its content. It is for one goroutine.
type Writer struct {
	out     io.Writer
	base    *Base
	own     map[digest]uint64 // nil if repetitions are kept
	current []byte
	queue   chan *piece
	jobs    chan *piece
	workers sync.WaitGroup
	done    chan struct{}

	mu  sync.Mutex
	err error

	content, stored uint64
	extents         []extent
}

// piece is a block on its way.
type piece struct {
	content []byte
	sums    [block / Page]digest
	ready   chan struct{}
}

// NewWriter writes to out. base may be nil. With repeats, what the content itself
// repeats is stored once. Up to buffered bytes wait before Write blocks.
func NewWriter(out io.Writer, base *Base, repeats bool, buffered int64) (*Writer, error) {
	if base == nil {
		base = &Base{}
	}
	depth := max(buffered/block, int64(2*runtime.GOMAXPROCS(0)))
	w := &Writer{out: out, base: base, queue: make(chan *piece, depth), jobs: make(chan *piece, depth), done: make(chan struct{})}
	if repeats {
		w.own = map[digest]uint64{}
	}
	if _, err := out.Write(magic); err != nil {
		return nil, err
	}
	w.stored = uint64(len(magic))
	for range runtime.GOMAXPROCS(0) {
		w.workers.Go(func() {
			for p := range w.jobs {
				sum(p.content, p.sums[:])
				close(p.ready)
			}
		})
	}
	go w.write()
	return w, nil
}

// write handles blocks in their order.
func (w *Writer) write() {
	defer close(w.done)
	for p := range w.queue {
		<-p.ready
		if w.failure() != nil {
			continue
		}
		if err := w.place(p); err != nil {
			w.mu.Lock()
			w.err = err
			w.mu.Unlock()
		}
	}
}

func (w *Writer) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// place finds out where every page of a block is, and stores those that are new.
func (w *Writer) place(p *piece) error {
	var fresh []byte // runs of new pages are written at once
	flush := func() error {
		_, err := w.out.Write(fresh)
		fresh = nil
		return err
	}
	for i := 0; i*Page < len(p.content); i++ {
		page := p.content[i*Page : min((i+1)*Page, len(p.content))]
		e := extent{fromFile, w.stored, uint64(len(page))}
		if len(page) == Page {
			if at, ok := w.base.pages[p.sums[i]]; ok {
				e.source, e.at = fromParent, at
			} else if at, ok := w.own[p.sums[i]]; ok {
				e.source, e.at = fromContent, at
			} else if w.own != nil {
				w.own[p.sums[i]] = w.content
			}
		}
		if e.source == fromFile {
			w.stored += uint64(len(page))
			fresh = p.content[i*Page-len(fresh) : i*Page+len(page)]
		} else if err := flush(); err != nil {
			return err
		}
		w.content += uint64(len(page))
		w.append(e)
	}
	return flush()
}

// append adds an extent, to the last one if it goes on there.
func (w *Writer) append(e extent) {
	if n := len(w.extents); n > 0 {
		if l := &w.extents[n-1]; l.source == e.source && l.at+l.length == e.at {
			// What repeats must lie in front of the whole extent.
			if e.source != fromContent || e.at+e.length <= w.content-e.length-l.length {
				l.length += e.length
				return
			}
		}
	}
	w.extents = append(w.extents, e)
}

// Write takes p, which is the caller's again when it returns. An error of an
// earlier write may show.
func (w *Writer) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := w.failure(); err != nil {
			return n, err
		}
		if w.current == nil {
			w.current = make([]byte, 0, block)
		}
		some := min(len(p)-n, block-len(w.current))
		w.current = append(w.current, p[n:n+some]...)
		n += some
		if len(w.current) == block {
			w.submit()
		}
	}
	return n, nil
}

func (w *Writer) submit() {
	p := &piece{content: w.current, ready: make(chan struct{})}
	w.current = nil
	w.queue <- p
	w.jobs <- p
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
	if len(w.base.parent.Name) > maxName {
		return errors.New("the name of the parent is too long")
	}
	tail := encodeTail(w.content, w.stored, w.extents, w.base.parent)
	n, err := w.out.Write(tail)
	w.stored += uint64(n)
	return err
}

// Written is how many bytes the output got. It is for after Close.
func (w *Writer) Written() int64 { return int64(w.stored) }
