package image

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/host/image/imagepb"
)

// indexEntry is what the index says of a block.
type indexEntry struct {
	offset uint64
	length uint64
	kind   blockType
	stream uint32
	count  uint32
}

// end is the offset behind the block.
func (e indexEntry) end() uint64 { return e.offset + blockSize(e.length) }

// zeros is the source of padding.
var zeros [maxPageSize]byte

// reserve takes room for a block at the end of the file and fills in the
// header's offset, sequence and id. For a bulk block, h.length is what the
// payloads need with their padding, and slots the number of entries that the
// table shall have room for; start and length are computed.
func (w *Writer) reserve(h blockHeader, s *Stream, slots int) blockHeader {
	w.mu.Lock()
	defer w.mu.Unlock()
	h.offset, h.id = w.pos, w.id
	if h.kind == blockBulk {
		head := headerSize + entrySize*uint64(slots)
		h.start = uint32(alignUp(h.offset+head, w.page) - h.offset)
		h.length += uint64(h.start) - headerSize
	}
	if s != nil {
		h.sequence = s.counts.blocks
		s.counts.add(h)
	}
	w.pos += h.size()
	w.behind.advance(h.offset)
	w.blocks = append(w.blocks, indexEntry{h.offset, h.length, h.kind, h.stream, h.count})
	return h
}

// writeBlock reserves and writes a block that is not bulk.
func (w *Writer) writeBlock(h blockHeader, s *Stream, body []byte) error {
	h.length = uint64(len(body))
	h.crc = checksum(body)
	if err := h.check(); err != nil {
		return err
	}
	h = w.reserve(h, s, 0)
	return w.putBlock(h, body)
}

// putBlock writes a block whose place is reserved.
func (w *Writer) putBlock(h blockHeader, body []byte) error {
	var b [headerSize]byte
	h.encode(b[:])
	padding := h.size() - headerSize - h.length
	return w.out.writeAt(h.offset, b[:], body, zeros[:padding])
}

// shrink gives back what a reserved block does not need. Room in the middle of
// the file becomes a padding block, which stays a hole.
func (w *Writer) shrink(h blockHeader, reserved uint64) error {
	w.mu.Lock()
	i, _ := slices.BinarySearchFunc(w.blocks, h.offset, func(e indexEntry, off uint64) int {
		return cmp.Compare(e.offset, off)
	})
	w.blocks[i].length, w.blocks[i].count = h.length, h.count
	end := h.offset + h.size()
	rest := reserved - end
	if w.pos == reserved || rest == 0 {
		w.pos -= rest
		w.mu.Unlock()
		return nil
	}
	p := blockHeader{kind: blockPadding, offset: end, length: rest - headerSize, id: w.id}
	w.blocks = slices.Insert(w.blocks, i+1, indexEntry{p.offset, p.length, p.kind, 0, 0})
	w.mu.Unlock()
	var b [headerSize]byte
	p.encode(b[:])
	return w.out.writeAt(p.offset, b[:])
}

// writeIndex writes the index block and the trailer.
func (w *Writer) writeIndex() error {
	index := &imagepb.Index{Blocks: make([]*imagepb.Block, 0, len(w.blocks))}
	for _, e := range w.blocks {
		index.Blocks = append(index.Blocks, &imagepb.Block{
			Offset: e.offset, Length: e.length, Type: uint32(e.kind), Stream: e.stream, Count: e.count,
		})
	}
	index.Streams = make([]*imagepb.Stream, len(w.streams))
	for _, s := range w.streams {
		index.Streams[s.number-1] = &imagepb.Stream{
			Number: s.number, Name: s.name, Blocks: s.counts.blocks,
			Records: s.counts.Records, RecordBytes: s.counts.RecordBytes,
			Bulks: s.counts.Bulks, BulkBytes: s.counts.BulkBytes,
		}
	}
	body, err := proto.Marshal(index)
	if err != nil {
		return fmt.Errorf("encode index: %w", err)
	}
	h := blockHeader{kind: blockIndex, length: uint64(len(body)), crc: checksum(body)}
	if err := h.check(); err != nil {
		return err
	}
	h = w.reserve(h, nil, 0)
	if err := w.putBlock(h, body); err != nil {
		return err
	}
	t := trailer{
		indexOffset: h.offset, indexSize: h.size(), fileLength: w.pos + headerSize, id: w.id, indexCRC: h.crc,
	}
	b := make([]byte, headerSize)
	t.encode(b)
	w.pos = t.fileLength
	return w.out.writeAt(t.fileLength-headerSize, b)
}
