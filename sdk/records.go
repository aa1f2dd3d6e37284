package sdk

import (
	"fmt"
	"io"
	"iter"
	"math"
	"sync"

	"github.com/firn-cr/firn/sdk/hbuf"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// recordWindow is how much of an image is read at once. Payloads of small
// records are parts of a window; they stay valid.
const recordWindow = 1 << 20

// imageRecords implements [Records] on an image. It keeps no payload; the
// index by object is built when it is first asked for.
type imageRecords struct {
	image  io.ReaderAt
	blocks []*pb.ImageBlock

	once  sync.Once
	index map[uint64][]location
	err   error
}

// location is where a record lies in the image, with its header and padding.
type location struct {
	offset int64
	length int
}

func newImageRecords(image io.ReaderAt, blocks []*pb.ImageBlock) *imageRecords {
	return &imageRecords{image: image, blocks: blocks}
}

// All implements [Records].
func (r *imageRecords) All() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		err := r.walk(func(_ location, rec hbuf.Record) bool { return yield(recordOf(rec), nil) })
		if err != nil {
			yield(Record{}, err)
		}
	}
}

// Object implements [Records].
func (r *imageRecords) Object(object uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		r.once.Do(r.build)
		if r.err != nil {
			yield(Record{}, r.err)
			return
		}
		for _, at := range r.index[object] {
			rec, err := r.read(at)
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// ReadBulk implements [Records].
func (r *imageRecords) ReadBulk(rec Record, b []byte, off int64) error {
	if !rec.Bulk || off < 0 || off > rec.BulkLen || int64(len(b)) > rec.BulkLen-off {
		return fmt.Errorf("read %d bytes at %d of record kind %d of object %d: it has %d bulk bytes: %w",
			len(b), off, rec.Kind, rec.Object, rec.BulkLen, ErrCorrupt)
	}
	return readFull(r.image, b, rec.BulkOffset+off)
}

func (r *imageRecords) build() {
	r.index = map[uint64][]location{}
	r.err = r.walk(func(at location, rec hbuf.Record) bool {
		r.index[rec.Object] = append(r.index[rec.Object], at)
		return true
	})
}

func (r *imageRecords) read(at location) (Record, error) {
	b := make([]byte, at.length)
	if err := readFull(r.image, b, at.offset); err != nil {
		return Record{}, err
	}
	for rec, err := range hbuf.Records(b) {
		if err != nil {
			return Record{}, fmt.Errorf("image offset %d: %w: %w", at.offset, ErrCorrupt, err)
		}
		return recordOf(rec), nil
	}
	return Record{}, fmt.Errorf("image offset %d: no record: %w", at.offset, ErrCorrupt)
}

// walk calls f for every record of every block until f returns false.
func (r *imageRecords) walk(f func(location, hbuf.Record) bool) error {
	for _, b := range r.blocks {
		if b.GetOffset() > math.MaxInt64/2 || b.GetLength() > math.MaxInt64/2 {
			return fmt.Errorf("record block at %d with %d bytes: %w", b.GetOffset(), b.GetLength(), ErrCorrupt)
		}
		w := window{image: r.image, pos: int64(b.GetOffset()), end: int64(b.GetOffset() + b.GetLength())}
		for w.pos < w.end {
			at, rec, err := w.next()
			if err != nil {
				return fmt.Errorf("image offset %d: %w", w.pos, err)
			}
			if !f(at, rec) {
				return nil
			}
		}
	}
	return nil
}

// window reads a block of packed records piece by piece.
type window struct {
	image    io.ReaderAt
	pos, end int64  // of what is not yet consumed
	buf      []byte // what was read of it
}

// next consumes one record.
func (w *window) next() (location, hbuf.Record, error) {
	var none hbuf.Record
	if err := w.fill(hbuf.HeaderSize); err != nil {
		return location{}, none, err
	}
	h, err := hbuf.DecodeHeader(w.buf)
	if err != nil {
		return location{}, none, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	size := hbuf.HeaderSize
	if !h.IsBulk() {
		size += (int(h.Length) + hbuf.Align - 1) &^ (hbuf.Align - 1) // at most hbuf.MaxRecord
	}
	if err := w.fill(size); err != nil {
		return location{}, none, err
	}
	for rec, err := range hbuf.Records(w.buf[:size:size]) {
		if err != nil {
			return location{}, none, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		at := location{offset: w.pos, length: size}
		w.buf, w.pos = w.buf[size:], w.pos+int64(size)
		return at, rec, nil
	}
	return location{}, none, ErrCorrupt
}

// fill makes the buffer hold at least n bytes. It reads into new memory:
// payloads that were given out stay as they are.
func (w *window) fill(n int) error {
	if len(w.buf) >= n {
		return nil
	}
	rest := w.end - w.pos
	if int64(n) > rest {
		return fmt.Errorf("record of %d bytes in %d: %w", n, rest, ErrCorrupt)
	}
	next := make([]byte, min(int64(max(n, recordWindow)), rest))
	have := copy(next, w.buf)
	if err := readFull(w.image, next[have:], w.pos+int64(have)); err != nil {
		return err
	}
	w.buf = next
	return nil
}

func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("image ends at offset %d, want %d bytes more: %w", off+int64(n), len(b)-n, ErrCorrupt)
	}
	return fmt.Errorf("read image: %w", err)
}

func recordOf(rec hbuf.Record) Record {
	r := Record{Kind: rec.Kind, Version: rec.Version, Object: rec.Object}
	if rec.IsBulk() {
		r.Bulk, r.BulkOffset, r.BulkLen = true, int64(rec.Bulk), int64(rec.Length)
	} else {
		r.Payload = rec.Payload
	}
	return r
}
