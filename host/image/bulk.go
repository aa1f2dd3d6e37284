package image

import (
	"fmt"
	"hash/crc32"
	"slices"
)

const (
	// groupLimit is the largest payload that shares a block with others.
	groupLimit = 64 << 10
	// groupFirst is the room for payloads in a stream's first such block. Each
	// one has twice the room of the one before, up to groupBytes: what is
	// reserved and not used is a hole in the file.
	groupFirst = 2 * groupLimit
	groupBytes = 1 << 20
	// groupSlots is the least number of payloads that it can have.
	groupSlots = 60
	// sumPiece is how much of a large payload is written at once.
	sumPiece = 256 << 10
)

// WriteBulk writes a bulk payload of up to hbuf.MaxBulk bytes and returns the
// offset, page aligned, that it has in the image. The memory is the caller's
// again when it returns. Large payloads are not copied and, in a file, are
// written by concurrent callers at the same time; small ones are gathered.
func (s *Stream) WriteBulk(data []byte) (uint64, error) {
	off, _, err := s.WriteBulkSum(data)
	return off, err
}

// WriteBulkSum is like WriteBulk and returns the CRC32C that it computed, so
// that the caller need not do it again. If the memory changes meanwhile, the
// image is damaged: the checksum may be of other bytes than those written.
func (s *Stream) WriteBulkSum(data []byte) (offset uint64, sum uint32, err error) {
	if len(data) == 0 || len(data) > maxRun {
		return 0, 0, s.wrap(fmt.Errorf("bulk payload of %d bytes", len(data)))
	}
	if err := s.w.enter(); err != nil {
		return 0, 0, s.wrap(err)
	}
	defer s.w.leave()
	if len(data) <= groupLimit {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.addToGroup(data)
	}
	if s.w.sequential {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.w.closeOpen(); err != nil {
			return 0, 0, err
		}
	}
	offset, sum, err = s.putBulk(data)
	return offset, sum, s.fail(err)
}

// putBulk writes a bulk block with one payload.
func (s *Stream) putBulk(data []byte) (offset uint64, sum uint32, err error) {
	w := s.w
	padded := alignUp(uint64(len(data)), w.page)
	h := w.reserve(blockHeader{kind: blockBulk, stream: s.number, count: 1, length: padded}, s, 1)
	w.countBulk(s, data)
	offset = h.offset + uint64(h.start)
	if w.sequential {
		sum = checksum(data)
		return offset, sum, w.out.writeAt(h.offset, bulkHead(h, data, sum), data, zeros[:padded-uint64(len(data))])
	}
	// The checksum of a piece is computed right after the kernel copied it: it
	// is in the processor's cache then. The header comes last.
	at := offset
	for rest := data; len(rest) > 0; {
		piece := rest[:min(len(rest), sumPiece)]
		if err := w.out.writeAt(at, piece); err != nil {
			return 0, 0, err
		}
		sum = crc32.Update(sum, castagnoli, piece)
		at, rest = at+uint64(len(piece)), rest[len(piece):]
	}
	// A file does not need padding written behind it: it is a hole, or the file
	// is made longer by what follows.
	return offset, sum, w.out.writeAt(h.offset, bulkHead(h, data, sum))
}

// bulkHead is what precedes the only payload of a bulk block.
func bulkHead(h blockHeader, data []byte, sum uint32) []byte {
	head := make([]byte, h.start)
	table := head[headerSize : headerSize+entrySize]
	runEntry{uint64(len(data)), sum}.encode(table)
	h.crc = checksum(table)
	h.encode(head)
	return head
}

func (w *Writer) countBulk(s *Stream, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.counts.Bulks++
	s.counts.BulkBytes += uint64(len(data))
}

// group is a bulk block that is being filled in memory. Its place in the file
// is reserved, so that the offsets of its payloads are known.
type group struct {
	h     blockHeader
	end   uint64 // of the reserved room, in the file
	buf   []byte // header, table, gap, payloads with padding
	slots uint32
}

// addToGroup is called with s.mu held.
func (s *Stream) addToGroup(data []byte) (offset uint64, sum uint32, err error) {
	w := s.w
	need := alignUp(uint64(len(data)), w.page)
	if g := s.group; g != nil && (g.h.count == g.slots || g.h.offset+uint64(len(g.buf))+need > g.end) {
		if err := s.closeGroup(); err != nil {
			return 0, 0, err
		}
	}
	if s.group == nil {
		if err := s.openGroup(); err != nil {
			return 0, 0, err
		}
	}
	g := s.group
	at := len(g.buf)
	g.buf = append(g.buf, data...)
	sum = checksum(g.buf[at:]) // of the copy: the original may be shared
	g.buf = append(g.buf, zeros[:need-uint64(len(data))]...)
	entry := g.buf[headerSize+entrySize*g.h.count:]
	runEntry{uint64(len(data)), sum}.encode(entry[:entrySize])
	g.h.count++
	w.countBulk(s, data)
	return g.h.offset + uint64(at), sum, nil
}

func (s *Stream) openGroup() error {
	w := s.w
	if err := w.closeOpen(); err != nil {
		return err
	}
	s.groupSize = min(max(2*s.groupSize, groupFirst), groupBytes)
	h := w.reserve(blockHeader{kind: blockBulk, stream: s.number, length: s.groupSize}, s, groupSlots)
	g := &group{h: h, end: h.offset + h.size(), slots: (h.start - headerSize) / entrySize}
	g.buf = append(slices.Grow(s.spare[:0], int(h.size())), zeros[:h.start]...)
	s.spare = nil
	s.group = g
	if w.sequential {
		w.open = s
	}
	return nil
}

// closeGroup writes the open group, if there is one. s.mu is held.
func (s *Stream) closeGroup() error {
	g := s.group
	if g == nil {
		return nil
	}
	s.group = nil
	w := s.w
	if w.open == s {
		w.open = nil
	}
	g.h.length = uint64(len(g.buf)) - headerSize
	g.h.crc = checksum(g.buf[headerSize : headerSize+entrySize*g.h.count])
	g.h.encode(g.buf)
	if err := w.out.writeAt(g.h.offset, g.buf); err != nil {
		return s.fail(err)
	}
	s.spare = g.buf
	return s.fail(w.shrink(g.h, g.end))
}

// closeOpen ends the open group of a sequential writer, whose end must be
// known before anything else can get a place. w.serial is held then.
func (w *Writer) closeOpen() error {
	if w.open == nil {
		return nil
	}
	return w.open.closeGroup()
}
