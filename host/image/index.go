package image

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/host/image/imagepb"
)

// Bounds of what a reader accepts.
const (
	maxStreams     = 4096
	maxRecordTypes = 65536 // of one stream
)

// readIndex reads the index and checks that the blocks fill the file.
func (i *Image) readIndex() error {
	at := i.trailer.indexOffset
	if i.trailer.indexSize < headerSize || i.trailer.indexSize > blockSize(maxIndex) {
		return i.damaged("index", at, fmt.Errorf("index of %d bytes", i.trailer.indexSize))
	}
	b, err := i.read("index", at, headerSize)
	if err != nil {
		return err
	}
	h, err := decodeBlockHeader(b)
	if err != nil {
		return i.damaged("index", at, err)
	}
	if h.kind != blockIndex || h.size() != i.trailer.indexSize || h.crc != i.trailer.indexCRC {
		return i.damaged("index", at, errors.New("block header and trailer do not agree"))
	}
	if h.sequence != 0 {
		return i.damaged("index", at, errors.New("index block with a sequence number"))
	}
	body, err := i.readBlock(indexEntry{at, h.length, blockIndex, 0, 0})
	if err != nil {
		return err
	}
	index, err := decodeIndex(body, i.size)
	if err != nil {
		return i.damaged("index", at, err)
	}
	return i.setIndex(index)
}

// decodeIndex bounds the number of elements before they take memory.
func decodeIndex(body []byte, fileSize uint64) (*imagepb.Index, error) {
	index := &imagepb.Index{}
	err := unmarshal(body, index, map[protowire.Number]uint64{1: fileSize / headerSize, 2: maxStreams})
	return index, err
}

// unmarshal decodes a message of which some fields must not occur more often
// than the limits say: an element of two bytes would take a hundred times that
// much memory.
func unmarshal(body []byte, m proto.Message, limits map[protowire.Number]uint64) error {
	count := map[protowire.Number]uint64{}
	for rest := body; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return protowire.ParseError(n)
		}
		rest = rest[n:]
		if n = protowire.ConsumeFieldValue(num, typ, rest); n < 0 {
			return protowire.ParseError(n)
		}
		rest = rest[n:]
		limit, ok := limits[num]
		if !ok {
			continue
		}
		if count[num]++; count[num] > limit {
			return fmt.Errorf("field %d occurs more than %d times", num, limit)
		}
	}
	return proto.Unmarshal(body, m)
}

// setIndex takes over the index if its blocks follow each other without a gap.
func (i *Image) setIndex(index *imagepb.Index) error {
	at := i.trailer.indexOffset
	for n, s := range index.Streams {
		if uint64(s.Number) != uint64(n)+1 || i.byName[s.Name] != nil || checkName(s.Name) != nil {
			return i.damaged("index", at, fmt.Errorf("entry of stream %d is not valid", s.Number))
		}
		st := &stream{Stream: s, number: s.Number}
		i.streams = append(i.streams, st)
		i.byName[s.Name] = st
	}
	if len(i.streams) == 0 || i.streams[0].Name != HostStream {
		return i.damaged("index", at, errors.New("the first stream is not the host's"))
	}
	pos := uint64(headerSize)
	i.blocks = make([]indexEntry, 0, len(index.Blocks))
	for n, b := range index.Blocks {
		e := indexEntry{b.Offset, b.Length, blockType(b.Type), b.Stream, b.Count}
		switch {
		case b.Type > uint32(blockPadding) || b.Type == 0:
			return i.damaged("index", at, fmt.Errorf("block %d has type %d", n, b.Type))
		case e.offset != pos || e.length > at || e.end() > at:
			return i.damaged("index", at, fmt.Errorf("block %d of %d bytes is at offset %d, not %d", n, e.length, e.offset, pos))
		case e.kind.owned() != (e.stream != 0) || uint64(e.stream) > uint64(len(i.streams)):
			return i.damaged("index", at, fmt.Errorf("block %d is in stream %d", n, e.stream))
		case (e.kind == blockManifest) != (n == 0):
			return i.damaged("index", at, fmt.Errorf("block %d is a %s block", n, e.kind))
		}
		pos = e.end()
		i.blocks = append(i.blocks, e)
	}
	if pos != at {
		return i.damaged("index", at, fmt.Errorf("the blocks end at offset %d", pos))
	}
	return nil
}
