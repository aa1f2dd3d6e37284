package image

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/firn-cr/firn/sdk/hbuf"
)

// verifyChunk is how much of a bulk block is read at once: enough for the
// system call not to matter, little enough to be in the processor's cache when
// the checksum is computed. Reading was measured to be faster than a mapping
// with MAP_POPULATE, and a file that shrinks meanwhile is an error, not SIGBUS.
const verifyChunk = 1 << 20

// run is a bulk payload, as a table has it or as a record refers to it.
type run struct {
	offset, length uint64
	crc            uint32
}

// finding is what the check of one block found beyond the block itself.
type finding struct {
	first, next uint64 // sequence numbers of records
	runs        []run  // of a bulk block, or references of a record block
}

// Verify reads the whole image and checks every checksum, every record header,
// that the records of each stream are numbered without a gap, that bulk
// records and bulk payloads belong together one to one, and the counts. It uses
// all processors. The error is the damage with the lowest offset that was
// found; it is a [CorruptError] unless the file could not be read.
func (i *Image) Verify(ctx context.Context) error {
	v := &verifier{Image: i, findings: make([]finding, len(i.blocks)), sequence: make([]uint64, len(i.blocks))}
	next := make([]uint64, len(i.streams)+1)
	for n, e := range i.blocks {
		v.chunk = max(v.chunk, min(blockSize(e.length), verifyChunk))
		if e.kind.owned() {
			v.sequence[n] = next[e.stream]
			next[e.stream]++
		}
	}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(i.blocks)) {
		wg.Go(func() { v.work(ctx) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("verify image %s: %w", i.path, err)
	}
	if v.err != nil {
		return v.err
	}
	for _, s := range i.streams {
		if err := v.checkStream(s); err != nil {
			return err
		}
	}
	return v.checkEnd()
}

// verifier is one run of Verify.
type verifier struct {
	*Image
	findings []finding // by block
	sequence []uint64  // of each block in its stream
	chunk    uint64    // no block needs more memory at once, unless it is of records
	taken    atomic.Int64
	failed   atomic.Bool

	mu  sync.Mutex
	err error // of the block with the lowest number
	at  int   // that number
}

// work checks blocks until there are none left.
func (v *verifier) work(ctx context.Context) {
	buf := make([]byte, v.chunk)
	for !v.failed.Load() && ctx.Err() == nil {
		n := int(v.taken.Add(1)) - 1
		if n >= len(v.blocks) {
			return
		}
		err := v.checkBlock(ctx, n, &buf)
		if err == nil {
			continue
		}
		v.failed.Store(true)
		v.mu.Lock()
		if v.err == nil || n < v.at {
			v.err, v.at = err, n
		}
		v.mu.Unlock()
	}
}

func (v *verifier) checkBlock(ctx context.Context, n int, buf *[]byte) error {
	e := v.blocks[n]
	var h blockHeader
	var err error
	switch e.kind {
	case blockBulk:
		h, err = v.checkBulk(ctx, n, *buf)
	case blockPadding:
		h, err = v.checkPadding(ctx, e, *buf)
	default:
		var body []byte
		if h, body, err = v.readBlockInto(e, *buf); err == nil && e.kind == blockRecords {
			v.findings[n], err = v.checkRecords(e, body)
		}
	}
	if err == nil && h.sequence != v.sequence[n] {
		err = v.corrupt(e.kind, e.stream, e.offset, fmt.Errorf("block number %d of its stream, want %d", h.sequence, v.sequence[n]))
	}
	return err
}

// checkRecords checks the records of a block and collects its references.
func (v *verifier) checkRecords(e indexEntry, body []byte) (finding, error) {
	var f finding
	var count uint32
	for r, err := range hbuf.Records(body) {
		if err == nil && count > 0 && r.Seq != f.next {
			err = fmt.Errorf("record is number %d, want %d", r.Seq, f.next)
		}
		if err == nil && r.Flags&^hbuf.FlagBulk != 0 {
			err = fmt.Errorf("record %d has flags %#x", r.Seq, r.Flags)
		}
		if err != nil {
			return f, v.corrupt(e.kind, e.stream, e.offset+headerSize, err)
		}
		if count == 0 {
			f.first = r.Seq
		}
		count++
		f.next = r.Seq + 1
		if r.IsBulk() {
			f.runs = append(f.runs, run{r.Bulk, r.Length, r.CRC})
		}
	}
	if count != e.count {
		return f, v.corrupt(e.kind, e.stream, e.offset, fmt.Errorf("%d records, the header says %d", count, e.count))
	}
	return f, nil
}

// checkPadding checks that a padding block is zero.
func (v *verifier) checkPadding(ctx context.Context, e indexEntry, buf []byte) (blockHeader, error) {
	b, err := v.read("padding", e.offset, headerSize)
	if err != nil {
		return blockHeader{}, err
	}
	h, err := v.blockHeader(e, b)
	if err != nil {
		return h, err
	}
	return h, v.each(ctx, e, headerSize, buf, func(off uint64, b []byte) error {
		if !isZero(b) {
			return v.corrupt(e.kind, e.stream, off, errNotZero)
		}
		return nil
	})
}

// each reads a block from start to its end in pieces.
func (v *verifier) each(ctx context.Context, e indexEntry, start uint64, buf []byte, check func(off uint64, b []byte) error) error {
	for pos := e.offset + start; pos < e.end(); {
		b := buf[:min(uint64(len(buf)), e.end()-pos)]
		if err := v.readAt(b, pos); err != nil {
			return v.corruptIO(e, pos, err)
		}
		if err := check(pos, b); err != nil {
			return err
		}
		pos += uint64(len(b))
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// checkStream joins what the blocks of a stream said.
func (v *verifier) checkStream(s *stream) error {
	var next, bytes uint64
	var refs []run
	for _, n := range s.records {
		f, e := v.findings[n], v.blocks[n]
		if f.first != next {
			return v.corrupt(e.kind, e.stream, e.offset, fmt.Errorf("first record is number %d, want %d", f.first, next))
		}
		next = f.next
		bytes += e.length
		refs = append(refs, f.runs...)
	}
	if s.Stream.Records != next || s.RecordBytes != bytes {
		return v.damaged("index", v.trailer.indexOffset, fmt.Errorf("stream %s has %d records in %d bytes, not %d in %d",
			s.Name, next, bytes, s.Stream.Records, s.RecordBytes))
	}
	return v.checkReferences(s, refs)
}

// checkEnd reads the trailer again: an image that is being replaced in place
// must not pass.
func (v *verifier) checkEnd() error {
	b, err := v.read("trailer", v.size-headerSize, headerSize)
	if err != nil {
		return err
	}
	t, err := decodeTrailer(b)
	if err == nil && t != v.trailer {
		err = errors.New("changed while the image was read")
	}
	if err != nil {
		return v.damaged("trailer", v.size-headerSize, err)
	}
	return nil
}
