package image

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"slices"
)

// checkBulk checks a bulk block: table, payloads and the zeros between them.
func (v *verifier) checkBulk(ctx context.Context, n int, buf []byte) (blockHeader, error) {
	e := v.blocks[n]
	h, runs, err := v.readTable(e)
	if err != nil {
		return h, err
	}
	v.findings[n].runs = runs
	c := bulkCheck{runs: runs, page: uint64(v.header.pageSize)}
	err = v.each(ctx, e, uint64(h.start), buf, func(off uint64, b []byte) error {
		if at, err := c.next(off, b); err != nil {
			return v.corrupt(e.kind, e.stream, at, err)
		}
		return nil
	})
	return h, err
}

// bulkCheck checks payloads that are read in pieces.
type bulkCheck struct {
	runs []run // the one that is being read and those behind it
	page uint64
	crc  uint32 // of what was read of the first
}

// next takes the bytes from offset off on. An error is about the bytes at the
// offset that it returns.
func (c *bulkCheck) next(off uint64, b []byte) (uint64, error) {
	for len(b) > 0 {
		r := c.runs[0]
		end, padded := r.offset+r.length, r.offset+alignUp(r.length, c.page)
		if off < end {
			part := b[:min(uint64(len(b)), end-off)]
			c.crc = crc32.Update(c.crc, castagnoli, part)
			off, b = off+uint64(len(part)), b[len(part):]
			if off == end && c.crc != r.crc {
				return r.offset, errChecksum
			}
		}
		if off >= end {
			gap := b[:min(uint64(len(b)), padded-off)]
			if !isZero(gap) {
				return off, errNotZero
			}
			off, b = off+uint64(len(gap)), b[len(gap):]
		}
		if off == padded {
			c.runs, c.crc = c.runs[1:], 0
		}
	}
	return off, nil
}

// readTable reads a bulk block's header and table and places its payloads.
func (i *Image) readTable(e indexEntry) (blockHeader, []run, error) {
	b, err := i.read("bulk", e.offset, headerSize)
	if err != nil {
		return blockHeader{}, nil, err
	}
	h, err := i.blockHeader(e, b)
	if err != nil {
		return h, nil, err
	}
	fail := func(err error) (blockHeader, []run, error) {
		return h, nil, i.corrupt(e.kind, e.stream, e.offset, err)
	}
	if b, err = i.read("bulk", e.offset, uint64(h.start)); err != nil {
		return h, nil, err
	}
	table := b[headerSize : headerSize+entrySize*int(h.count)]
	if checksum(table) != h.crc {
		return fail(errChecksum)
	}
	if !isZero(b[headerSize+len(table):]) {
		return fail(errNotZero)
	}
	page := uint64(i.header.pageSize)
	pos := e.offset + uint64(h.start)
	if pos%page != 0 {
		return fail(fmt.Errorf("payload at offset %d is not page aligned", pos))
	}
	runs := make([]run, h.count)
	for n := range runs {
		entry, err := decodeRunEntry(table[entrySize*n:])
		if err != nil {
			return fail(err)
		}
		runs[n] = run{pos, entry.length, entry.crc}
		pos += alignUp(entry.length, page)
	}
	if pos != e.end() {
		return fail(fmt.Errorf("payloads end at offset %d, the block at %d", pos, e.end()))
	}
	return h, runs, nil
}

// checkReferences checks that the bulk records of a stream and its bulk
// payloads belong together one to one.
func (v *verifier) checkReferences(s *stream, refs []run) error {
	var runs []run
	var bytes uint64
	for _, n := range s.bulk {
		runs = append(runs, v.findings[n].runs...)
	}
	slices.SortFunc(refs, func(a, b run) int { return cmp.Compare(a.offset, b.offset) })
	for n, r := range runs { // in the order of the file
		bytes += r.length
		if n >= len(refs) || refs[n] != r {
			return v.corrupt(blockBulk, s.number, r.offset, fmt.Errorf("payload of %d bytes has no record, or one that differs", r.length))
		}
	}
	if len(refs) > len(runs) {
		r := refs[len(runs)]
		return v.corrupt(blockRecords, s.number, r.offset, fmt.Errorf("record refers to %d bytes that are no payload of its stream", r.length))
	}
	if s.Bulks != uint64(len(runs)) || s.BulkBytes != bytes {
		return v.damaged("index", v.trailer.indexOffset, fmt.Errorf("stream %s has %d bulk payloads of %d bytes, not %d of %d",
			s.Name, len(runs), bytes, s.Bulks, s.BulkBytes))
	}
	return nil
}
