package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
)

// Image is an open image. Its methods may be called concurrently.
type Image struct {
	path     string
	file     *os.File // nil in tests that open bytes
	r        io.ReaderAt
	size     uint64
	content  *content // nil in tests that open bytes
	header   fileHeader
	trailer  trailer
	manifest *imagepb.Manifest
	blocks   []indexEntry
	streams  []*stream // by number - 1
	byName   map[string]*stream
}

// stream is what the image says of one stream.
type stream struct {
	*imagepb.Stream
	number  uint32
	start   *imagepb.StreamStart
	records []int // indices of its record blocks
	bulk    []int // and of its bulk blocks
	all     int   // number of its blocks
}

// Open opens an image and checks its header, trailer, index, manifest and
// stream blocks. Damage is a [CorruptError]; a format that is too new is
// [sdk.ErrVersion]. An image that is packed is unpacked, with the help of those
// that it is based on ([ErrParent]).
func Open(path string) (*Image, error) { return openAt(path, 0) }

// Glance is [Open] for somebody who wants little of the image: one that is packed
// is not unpacked as a whole. [Image.File] is nil then.
func Glance(path string) (*Image, error) { return openAt(path, 1) }

// openAt opens an image. Only that at depth 0 is unpacked as a whole; the others
// are those that it is based on.
func openAt(path string, depth int) (*Image, error) {
	// O_NONBLOCK: a FIFO must not hang the caller.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	return openFile(f, path, depth)
}

// OpenFile is like [Open] for a file that is open already, which is the image's
// from then on, and is closed if there is an error.
func OpenFile(f *os.File, path string) (*Image, error) { return openFile(f, path, 0) }

func openFile(f *os.File, path string, depth int) (*Image, error) {
	c, err := unpack(f, path, depth)
	if err != nil {
		return nil, err
	}
	if depth == 0 {
		if err := c.solidify(path); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	i, err := open(c.r, c.size, path)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	i.content, i.file = c, c.file
	return i, nil
}

// open reads what every use of the image needs.
func open(r io.ReaderAt, size int64, path string) (*Image, error) {
	i := &Image{path: path, r: r, size: uint64(size), byName: map[string]*stream{}}
	b, err := i.read("header", 0, headerSize)
	if err != nil {
		return nil, err
	}
	if i.header, err = decodeFileHeader(b); err != nil {
		return nil, i.damaged("header", 0, err)
	}
	if err := i.readTrailer(); err != nil {
		return nil, err
	}
	if err := i.readIndex(); err != nil {
		return nil, err
	}
	if err := i.readManifest(); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Image) readTrailer() error {
	if i.size < 3*headerSize {
		return i.damaged("trailer", i.size, errTruncated)
	}
	at := i.size - headerSize
	b, err := i.read("trailer", at, headerSize)
	if err != nil {
		return err
	}
	t, err := decodeTrailer(b)
	if err != nil {
		return i.damaged("trailer", at, err)
	}
	switch {
	case t.fileLength != i.size:
		err = fmt.Errorf("the file has %d bytes, the trailer says %d", i.size, t.fileLength)
	case t.id != i.header.id:
		err = errors.New("trailer of another image")
	case t.indexOffset < headerSize || t.indexOffset > at || t.indexSize != at-t.indexOffset:
		err = fmt.Errorf("index of %d bytes at offset %d", t.indexSize, t.indexOffset)
	}
	if err != nil {
		return i.damaged("trailer", at, err)
	}
	i.trailer = t
	return nil
}

// readManifest reads the manifest and the stream blocks and joins them.
func (i *Image) readManifest() error {
	if len(i.blocks) == 0 || i.blocks[0].kind != blockManifest {
		return i.damaged("manifest", headerSize, errors.New("the first block is not the manifest"))
	}
	at := i.blocks[0].offset
	body, err := i.readBlock(i.blocks[0])
	if err != nil {
		return err
	}
	m := &imagepb.Manifest{}
	if err := unmarshal(body, m, map[protowire.Number]uint64{7: maxStreams}); err != nil {
		return i.damaged("manifest", at, err)
	}
	if m.PageSize != i.header.pageSize || machines[m.Arch] != i.header.machine {
		return i.damaged("manifest", at, errors.New("page size or architecture is not that of the file header"))
	}
	if err := i.readStreams(); err != nil {
		return err
	}
	for n, p := range m.Plugins {
		if n+1 >= len(i.streams) || i.streams[n+1].Name != p.Name || p.Records != nil || p.Descriptors != nil {
			return i.damaged("manifest", at, fmt.Errorf("entry of plugin %q is not valid", p.Name))
		}
		s := i.streams[n+1]
		p.Records, p.Descriptors = s.start.Records, s.start.Descriptors
	}
	i.manifest = m
	return nil
}

// readStreams reads the first block of each stream.
func (i *Image) readStreams() error {
	begun := make([]bool, len(i.streams))
	for n, e := range i.blocks {
		if !e.kind.owned() {
			continue
		}
		s := i.streams[e.stream-1]
		s.all++
		if begun[e.stream-1] != (e.kind != blockStream) {
			return i.corrupt(e.kind, e.stream, e.offset, errors.New("stream does not begin with its one stream block"))
		}
		begun[e.stream-1] = true
		switch e.kind {
		case blockRecords:
			s.records = append(s.records, n)
		case blockBulk:
			s.bulk = append(s.bulk, n)
		case blockStream:
			body, err := i.readBlock(e)
			if err != nil {
				return err
			}
			s.start = &imagepb.StreamStart{}
			if err := unmarshal(body, s.start, map[protowire.Number]uint64{2: maxRecordTypes}); err != nil {
				return i.corrupt(e.kind, e.stream, e.offset, err)
			}
			if s.start.Name != s.Name {
				return i.corrupt(e.kind, e.stream, e.offset, fmt.Errorf("stream of plugin %q", s.start.Name))
			}
		}
	}
	for _, s := range i.streams {
		if s.start == nil {
			return i.damaged("index", i.trailer.indexOffset, fmt.Errorf("stream %s has no stream block", s.Name))
		}
		if s.Blocks != uint64(s.all) {
			return i.damaged("index", i.trailer.indexOffset, fmt.Errorf("stream %s has %d blocks, not %d", s.Name, s.all, s.Blocks))
		}
	}
	return nil
}

// read reads n bytes at off.
func (i *Image) read(section string, off, n uint64) ([]byte, error) {
	if off > i.size || n > i.size-off {
		return nil, i.damaged(section, off, errTruncated)
	}
	b := make([]byte, n)
	if err := i.readAt(b, off); err != nil {
		return nil, i.damagedIO(section, off, err)
	}
	return b, nil
}

// readAt fills b. A file that was cut since Open gives errTruncated.
func (i *Image) readAt(b []byte, off uint64) error {
	n, err := i.r.ReadAt(b, int64(off))
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return errTruncated
	}
	return err
}

// readBlock reads the body of a block that is not bulk and checks header,
// checksum and padding.
func (i *Image) readBlock(e indexEntry) ([]byte, error) {
	_, body, err := i.readBlockInto(e, nil)
	return body, err
}

// readBlockInto is like readBlock but uses the memory of buf if it suffices.
func (i *Image) readBlockInto(e indexEntry, buf []byte) (blockHeader, []byte, error) {
	size := blockSize(e.length)
	if e.length > maxIndex || e.offset > i.size || size > i.size-e.offset {
		return blockHeader{}, nil, i.corrupt(e.kind, e.stream, e.offset, errTruncated)
	}
	if size > uint64(cap(buf)) {
		buf = make([]byte, size)
	}
	b := buf[:size]
	if err := i.readAt(b, e.offset); err != nil {
		return blockHeader{}, nil, i.corruptIO(e, e.offset, err)
	}
	h, err := i.blockHeader(e, b)
	if err != nil {
		return h, nil, err
	}
	body := b[headerSize : headerSize+h.length]
	if checksum(body) != h.crc {
		return h, nil, i.corrupt(e.kind, e.stream, e.offset, errChecksum)
	}
	if !isZero(b[headerSize+h.length:]) {
		return h, nil, i.corrupt(e.kind, e.stream, e.offset, errNotZero)
	}
	return h, body, nil
}

// blockHeader decodes a block header and compares it with the index.
func (i *Image) blockHeader(e indexEntry, b []byte) (blockHeader, error) {
	h, err := decodeBlockHeader(b)
	if err == nil && (h.offset != e.offset || h.length != e.length || h.kind != e.kind || h.stream != e.stream || h.count != e.count) {
		err = errors.New("block header and index do not agree")
	}
	if err == nil && h.id != i.header.id {
		err = errors.New("block of another image")
	}
	if err != nil {
		return h, i.corrupt(e.kind, e.stream, e.offset, err)
	}
	return h, nil
}

// Manifest returns the manifest, with the record types and descriptors of the
// plugins. It must not be changed.
func (i *Image) Manifest() *imagepb.Manifest { return i.manifest }

// Path is the name that the image was opened by.
func (i *Image) Path() string { return i.path }

// File is the open file. It stays the image's.
func (i *Image) File() *os.File { return i.file }

// Size is the length of the file in bytes.
func (i *Image) Size() int64 { return int64(i.size) }

// ID is the random number that the image got when it was written.
func (i *Image) ID() uint64 { return i.header.id }

// Streams returns the names of all streams in the order of the file.
func (i *Image) Streams() []string {
	names := make([]string, len(i.streams))
	for n, s := range i.streams {
		names[n] = s.Name
	}
	return names
}

// Totals says how much the image holds, as the index tells.
func (i *Image) Totals() Totals {
	t := Totals{FileBytes: i.size, Streams: map[string]StreamTotals{}}
	for _, s := range i.streams {
		t.add(s.Name, StreamTotals{s.Stream.Records, s.RecordBytes, s.Bulks, s.BulkBytes})
	}
	return t
}

// ReadBulk reads a bulk payload into b, starting at off within it.
func (i *Image) ReadBulk(r sdk.Record, b []byte, off int64) error {
	if !r.Bulk || off < 0 || r.BulkLen < 0 || off > r.BulkLen || int64(len(b)) > r.BulkLen-off || r.BulkOffset < 0 {
		return fmt.Errorf("read %d bytes at %d of a bulk payload of %d: out of range", len(b), off, r.BulkLen)
	}
	at := uint64(r.BulkOffset) + uint64(off)
	if err := i.readAt(b, at); err != nil {
		return i.damagedIO("bulk", at, err)
	}
	return nil
}

// Close closes the file.
func (i *Image) Close() error {
	if i.content == nil {
		return nil
	}
	return i.content.Close()
}

// damaged makes the error of a part that belongs to no plugin.
func (i *Image) damaged(section string, off uint64, err error) error {
	return &CorruptError{Path: i.path, Section: section, Offset: int64(off), Err: err}
}

// damagedIO is damaged, unless the file could not be read.
func (i *Image) damagedIO(section string, off uint64, err error) error {
	if errors.Is(err, errTruncated) {
		return i.damaged(section, off, err)
	}
	return fmt.Errorf("read image %s: section %s at offset %d: %w", i.path, section, off, err)
}

// corrupt makes the error of a block.
func (i *Image) corrupt(kind blockType, stream uint32, off uint64, err error) error {
	e := &CorruptError{Path: i.path, Section: kind.String(), Offset: int64(off), Err: err}
	if stream > 0 && int(stream) <= len(i.streams) {
		e.Plugin = i.streams[stream-1].Name
	}
	return e
}

// corruptIO is corrupt, unless the file could not be read.
func (i *Image) corruptIO(e indexEntry, off uint64, err error) error {
	if errors.Is(err, errTruncated) {
		return i.corrupt(e.kind, e.stream, off, err)
	}
	return i.damagedIO(e.kind.String(), off, err)
}
