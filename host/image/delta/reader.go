package delta

import (
	"io"
	"sort"
)

// Reader reads the content of a delta. Its methods may be called concurrently if
// those of what it reads from may.
type Reader struct {
	*File
	parent io.ReaderAt
}

// maxHops is how often what repeats may lead to what repeats; a writer makes one.
const maxHops = 64

// NewReader reads the content of a file. parent is that of the parent; nil if
// there is none.
func (f *File) NewReader(parent io.ReaderAt) *Reader { return &Reader{f, parent} }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) { return r.readAt(p, off, 0) }

func (r *Reader) readAt(p []byte, off int64, hops int) (n int, err error) {
	if off < 0 || hops > maxHops {
		return 0, errTable
	}
	i := sort.Search(len(r.extents), func(i int) bool { return r.starts[i]+r.extents[i].length > uint64(off) })
	for ; n < len(p); i++ {
		if i >= len(r.extents) {
			return n, io.EOF
		}
		e := r.extents[i]
		skip := uint64(off) + uint64(n) - r.starts[i]
		part := p[n : n+int(min(uint64(len(p)-n), e.length-skip))]
		at := int64(e.at + skip)
		switch {
		case e.source == fromFile:
			_, err = r.r.ReadAt(part, at)
		case e.source == fromContent:
			_, err = r.readAt(part, at, hops+1)
		case r.parent == nil:
			err = errTable
		default:
			_, err = r.parent.ReadAt(part, at)
		}
		if err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}
