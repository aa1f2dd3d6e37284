package delta

import (
	"crypto/sha256"
	"errors"
	"io"
	"runtime"
	"sync"

	"github.com/firn-cr/firn/host/image/blocks"
)

// Page is the size of what is compared.
const Page = 4096

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
			buf := make([]byte, blocks.Size)
			for {
				next.Lock()
				from := at
				at += blocks.Size
				next.Unlock()
				if from >= uint64(len(sums))*Page {
					return
				}
				some := buf[:min(blocks.Size, uint64(len(sums))*Page-from)]
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

// sums are the digests of the pages of a block.
type sums [blocks.Size / Page]digest

// Writer writes a file from its content. It is for one goroutine.
type Writer struct {
	*blocks.Writer[*sums]
	out  io.Writer
	base *Base
	own  map[digest]uint64 // nil if repetitions are kept

	content, stored uint64
	extents         []extent
}

// NewWriter writes to out. base may be nil. With repeats, what the content itself
// repeats is stored once. Up to buffered bytes wait before Write blocks.
func NewWriter(out io.Writer, base *Base, repeats bool, buffered int64) (*Writer, error) {
	if base == nil {
		base = &Base{}
	}
	w := &Writer{out: out, base: base}
	if repeats {
		w.own = map[digest]uint64{}
	}
	if _, err := out.Write(magic); err != nil {
		return nil, err
	}
	w.stored = uint64(len(magic))
	w.Writer = blocks.NewWriter(buffered, func(b *blocks.Block[*sums]) {
		b.Result = new(sums)
		sum(b.Content, b.Result[:])
	}, w.place)
	return w, nil
}

// place finds out where every page of a block is, and stores those that are new.
func (w *Writer) place(p *blocks.Block[*sums]) error {
	var fresh []byte // runs of new pages are written at once
	flush := func() error {
		_, err := w.out.Write(fresh)
		fresh = nil
		return err
	}
	for i := 0; i*Page < len(p.Content); i++ {
		page := p.Content[i*Page : min((i+1)*Page, len(p.Content))]
		e := extent{fromFile, w.stored, uint64(len(page))}
		if len(page) == Page {
			if at, ok := w.base.pages[p.Result[i]]; ok {
				e.source, e.at = fromParent, at
			} else if at, ok := w.own[p.Result[i]]; ok {
				e.source, e.at = fromContent, at
			} else if w.own != nil {
				w.own[p.Result[i]] = w.content
			}
		}
		if e.source == fromFile {
			w.stored += uint64(len(page))
			fresh = p.Content[i*Page-len(fresh) : i*Page+len(page)]
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

// Close writes what is left and the table. It must be called, also to give the
// file up; it does not close the output.
func (w *Writer) Close() error {
	if err := w.Writer.Close(); err != nil {
		return err
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
