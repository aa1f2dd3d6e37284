package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
)

// FormatVersion is the version of the file format that this package writes.
const FormatVersion = 1

// Suffix is the usual end of an image's name.
const Suffix = ".firn"

const (
	fileMagic    = "\x89FIRN\r\n\x1a" // finds transfers in text mode, as PNG does
	trailerMagic = "FIRNEND\n"
	blockMagic   = 0x4b4c4246 // "FBLK"

	headerSize  = 64 // file header, block header, trailer
	blockAlign  = 64
	entrySize   = 16 // of a bulk block's table
	minPageSize = 4 << 10
	maxPageSize = 64 << 10
)

// Bounds of what a reader accepts.
const (
	maxBlock    = 64 << 20  // body of a block
	maxManifest = 1 << 20   // body of the manifest
	maxStart    = 4 << 20   // body of a stream block
	maxIndex    = 256 << 20 // body of the index
	maxRun      = hbuf.MaxBulk
)

// blockType says what a block holds.
type blockType uint16

const (
	blockManifest blockType = 1
	blockStream   blockType = 2
	blockRecords  blockType = 3
	blockBulk     blockType = 4
	blockPadding  blockType = 5
	blockIndex    blockType = 6
)

// String returns the section's name in errors.
func (t blockType) String() string {
	switch t {
	case blockManifest:
		return "manifest"
	case blockStream:
		return "stream"
	case blockRecords:
		return "records"
	case blockBulk:
		return "bulk"
	case blockPadding:
		return "padding"
	case blockIndex:
		return "index"
	}
	return fmt.Sprintf("block type %d", uint16(t))
}

// owned tells whether blocks of the type belong to a stream.
func (t blockType) owned() bool {
	return t == blockStream || t == blockRecords || t == blockBulk
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is CRC32C.
func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// machines maps the Go name of an architecture to ELF's e_machine.
var machines = map[string]uint32{"amd64": 62, "arm64": 183, "riscv64": 243}

// fileHeader is the first 64 bytes of an image:
//
//	 0  8 bytes  magic 89 'F' 'I' 'R' 'N' 0D 0A 1A
//	 8  u32      format version
//	12  u32      flags, zero
//	16  u32      page size: alignment of bulk payloads
//	20  u32      architecture as ELF's e_machine
//	24  u64      id of the image: random, repeated in every block header
//	32  28 bytes zero
//	60  u32      CRC32C of bytes 0..59
type fileHeader struct {
	version  uint32
	flags    uint32
	pageSize uint32
	machine  uint32
	id       uint64
}

func (h fileHeader) encode(b []byte) {
	clear(b[:headerSize])
	le := binary.LittleEndian
	copy(b, fileMagic)
	le.PutUint32(b[8:], h.version)
	le.PutUint32(b[12:], h.flags)
	le.PutUint32(b[16:], h.pageSize)
	le.PutUint32(b[20:], h.machine)
	le.PutUint64(b[24:], h.id)
	seal(b)
}

func decodeFileHeader(b []byte) (fileHeader, error) {
	if len(b) < headerSize {
		return fileHeader{}, errTruncated
	}
	if string(b[:8]) != fileMagic {
		return fileHeader{}, errors.New("not a firn image")
	}
	if err := checkSeal(b); err != nil {
		return fileHeader{}, err
	}
	le := binary.LittleEndian
	h := fileHeader{
		version:  le.Uint32(b[8:]),
		flags:    le.Uint32(b[12:]),
		pageSize: le.Uint32(b[16:]),
		machine:  le.Uint32(b[20:]),
		id:       le.Uint64(b[24:]),
	}
	switch {
	case h.version != FormatVersion:
		return h, fmt.Errorf("format version %d, this firn reads version %d: %w", h.version, FormatVersion, sdk.ErrVersion)
	case h.flags != 0:
		return h, fmt.Errorf("flags %#x: %w", h.flags, sdk.ErrVersion)
	case h.pageSize < minPageSize || h.pageSize > maxPageSize || h.pageSize&(h.pageSize-1) != 0:
		return h, fmt.Errorf("page size %d is out of range", h.pageSize)
	case !isZero(b[32:60]):
		return h, errNotZero
	}
	return h, nil
}

// blockHeader precedes the body of every block:
//
//	 0  u32  magic "FBLK"
//	 4  u16  type
//	 6  u16  flags, zero
//	 8  u32  stream: 0 for the image's own blocks, else from 1
//	12  u32  count: records, runs; else zero
//	16  u64  length of the body, which follows the header
//	24  u64  sequence: number of this block in its stream, from 0
//	32  u32  CRC32C of the body; of a bulk block, of its table; of padding zero
//	36  u32  start: of a bulk block, offset of its first payload from the header
//	40  u64  offset of this header in the file
//	48  u64  id of the image
//	56  u32  zero
//	60  u32  CRC32C of bytes 0..59
type blockHeader struct {
	kind     blockType
	stream   uint32
	count    uint32
	length   uint64
	sequence uint64
	crc      uint32
	start    uint32
	offset   uint64
	id       uint64
}

func (h blockHeader) encode(b []byte) {
	clear(b[:headerSize])
	le := binary.LittleEndian
	le.PutUint32(b[0:], blockMagic)
	le.PutUint16(b[4:], uint16(h.kind))
	le.PutUint32(b[8:], h.stream)
	le.PutUint32(b[12:], h.count)
	le.PutUint64(b[16:], h.length)
	le.PutUint64(b[24:], h.sequence)
	le.PutUint32(b[32:], h.crc)
	le.PutUint32(b[36:], h.start)
	le.PutUint64(b[40:], h.offset)
	le.PutUint64(b[48:], h.id)
	seal(b)
}

// decodeBlockHeader checks what a block header says by itself.
func decodeBlockHeader(b []byte) (blockHeader, error) {
	if len(b) < headerSize {
		return blockHeader{}, errTruncated
	}
	le := binary.LittleEndian
	if le.Uint32(b) != blockMagic {
		return blockHeader{}, errMagic
	}
	if err := checkSeal(b); err != nil {
		return blockHeader{}, err
	}
	h := blockHeader{
		kind:     blockType(le.Uint16(b[4:])),
		stream:   le.Uint32(b[8:]),
		count:    le.Uint32(b[12:]),
		length:   le.Uint64(b[16:]),
		sequence: le.Uint64(b[24:]),
		crc:      le.Uint32(b[32:]),
		start:    le.Uint32(b[36:]),
		offset:   le.Uint64(b[40:]),
		id:       le.Uint64(b[48:]),
	}
	if flags := le.Uint16(b[6:]); flags != 0 {
		return h, fmt.Errorf("block flags %#x: %w", flags, sdk.ErrVersion)
	}
	if le.Uint32(b[56:]) != 0 {
		return h, errNotZero
	}
	return h, h.check()
}

// check bounds the fields by the block's type.
func (h blockHeader) check() error {
	limit := uint64(maxBlock)
	switch h.kind {
	case blockManifest:
		limit = maxManifest
	case blockStream:
		limit = maxStart
	case blockIndex:
		limit = maxIndex
	case blockRecords, blockBulk:
	case blockPadding:
		limit = 1<<63 - 1
	default:
		return fmt.Errorf("block type %d: %w", h.kind, sdk.ErrVersion)
	}
	counted := h.kind == blockRecords || h.kind == blockBulk
	switch {
	case h.length > limit:
		return fmt.Errorf("body of %d bytes is over the limit of %d", h.length, limit)
	case h.kind.owned() != (h.stream != 0):
		return fmt.Errorf("%s block in stream %d", h.kind, h.stream)
	case counted != (h.count != 0):
		return fmt.Errorf("%s block with a count of %d", h.kind, h.count)
	case h.kind != blockBulk && h.start != 0, h.kind == blockPadding && (h.crc != 0 || h.sequence != 0):
		return fmt.Errorf("%s block has a field that must be zero", h.kind)
	case h.kind == blockRecords && (h.length%blockAlign != 0 || uint64(h.count) > h.length/blockAlign):
		return fmt.Errorf("%d records in %d bytes", h.count, h.length)
	}
	if h.kind == blockBulk {
		table := headerSize + entrySize*uint64(h.count)
		if uint64(h.start) < table || uint64(h.start) >= headerSize+h.length {
			return fmt.Errorf("%d runs start at %d in a block of %d bytes", h.count, h.start, h.length)
		}
	}
	return nil
}

// size is what the block takes in the file, padding included.
func (h blockHeader) size() uint64 { return blockSize(h.length) }

func blockSize(length uint64) uint64 { return alignUp(headerSize+length, blockAlign) }

// runEntry is an element of the table behind a bulk block's header:
//
//	 0  u64  length of the payload in bytes
//	 8  u32  CRC32C of the payload
//	12  u32  zero
type runEntry struct {
	length uint64
	crc    uint32
}

func (e runEntry) encode(b []byte) {
	binary.LittleEndian.PutUint64(b, e.length)
	binary.LittleEndian.PutUint32(b[8:], e.crc)
	binary.LittleEndian.PutUint32(b[12:], 0)
}

func decodeRunEntry(b []byte) (runEntry, error) {
	e := runEntry{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:])}
	if e.length == 0 || e.length > maxRun {
		return e, fmt.Errorf("payload of %d bytes", e.length)
	}
	if binary.LittleEndian.Uint32(b[12:]) != 0 {
		return e, errNotZero
	}
	return e, nil
}

// trailer is the last 64 bytes of an image:
//
//	 0  8 bytes  magic "FIRNEND\n"
//	 8  u64      offset of the index block
//	16  u64      size of the index block, header and padding included
//	24  u64      length of the file
//	32  u64      id of the image
//	40  u32      CRC32C of the index block's body
//	44  16 bytes zero
//	60  u32      CRC32C of bytes 0..59
type trailer struct {
	indexOffset uint64
	indexSize   uint64
	fileLength  uint64
	id          uint64
	indexCRC    uint32
}

func (t trailer) encode(b []byte) {
	clear(b[:headerSize])
	le := binary.LittleEndian
	copy(b, trailerMagic)
	le.PutUint64(b[8:], t.indexOffset)
	le.PutUint64(b[16:], t.indexSize)
	le.PutUint64(b[24:], t.fileLength)
	le.PutUint64(b[32:], t.id)
	le.PutUint32(b[40:], t.indexCRC)
	seal(b)
}

func decodeTrailer(b []byte) (trailer, error) {
	if len(b) < headerSize {
		return trailer{}, errTruncated
	}
	if string(b[:8]) != trailerMagic {
		return trailer{}, fmt.Errorf("no trailer: the image is cut off or something follows it")
	}
	if err := checkSeal(b); err != nil {
		return trailer{}, err
	}
	if !isZero(b[44:60]) {
		return trailer{}, errNotZero
	}
	le := binary.LittleEndian
	return trailer{
		indexOffset: le.Uint64(b[8:]),
		indexSize:   le.Uint64(b[16:]),
		fileLength:  le.Uint64(b[24:]),
		id:          le.Uint64(b[32:]),
		indexCRC:    le.Uint32(b[40:]),
	}, nil
}

// seal puts the checksum into the last four of 64 bytes.
func seal(b []byte) { binary.LittleEndian.PutUint32(b[60:64], checksum(b[:60])) }

func checkSeal(b []byte) error {
	if binary.LittleEndian.Uint32(b[60:64]) != checksum(b[:60]) {
		return errChecksum
	}
	return nil
}

func alignUp(n, to uint64) uint64 { return (n + to - 1) &^ (to - 1) }

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
