package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A file, all numbers little endian:
//
//	 8  magic
//	    the pages that are stored
//	    table: for every extent u64 source and place, u64 length
//	    name of the parent
//	64  footer:
//	     0  u64  length of the content
//	     8  u64  offset of the table
//	    16  u64  number of extents
//	    24  u32  length of the parent's name, 0 without one
//	    28  u32  zero
//	    32  u64  identity of the parent
//	    40  u64  length of the parent's content
//	    48  u32  CRC32C of table and name
//	    52  u32  zero
//	    56  u32  CRC32C of bytes 0 to 55 of the footer
//	    60  4    "FIRN"
//
// Extents follow each other in the content. The upper two bits of the first word
// are the source: 0 the file, 1 the content in front of it, 2 the parent's content;
// the others are the offset there.
const (
	footerSize = 64
	extentSize = 16
	maxName    = 4096

	sourceShift = 62
	fromFile    = 0
	fromContent = 1
	fromParent  = 2
)

var (
	magic     = []byte{0x89, 'F', 'I', 'R', 'N', 'D', 0x0D, 0x0A}
	footerEnd = []byte("FIRN")
	crcTable  = crc32.MakeTable(crc32.Castagnoli)
)

// extent is where a part of the content is.
type extent struct {
	source uint64
	at     uint64
	length uint64
}

// Parent names the file that a file is based on.
type Parent struct {
	// Name is its path, as the writer gave it.
	Name string
	// ID and Length identify its content.
	ID, Length uint64
}

var errTable = errors.New("the table of a delta is damaged or missing")

func encodeTail(content, table uint64, extents []extent, p Parent) []byte {
	var b []byte
	for _, e := range extents {
		b = binary.LittleEndian.AppendUint64(b, e.source<<sourceShift|e.at)
		b = binary.LittleEndian.AppendUint64(b, e.length)
	}
	b = append(b, p.Name...)
	f := make([]byte, footerSize)
	binary.LittleEndian.PutUint64(f, content)
	binary.LittleEndian.PutUint64(f[8:], table)
	binary.LittleEndian.PutUint64(f[16:], uint64(len(extents)))
	binary.LittleEndian.PutUint32(f[24:], uint32(len(p.Name)))
	binary.LittleEndian.PutUint64(f[32:], p.ID)
	binary.LittleEndian.PutUint64(f[40:], p.Length)
	binary.LittleEndian.PutUint32(f[48:], crc32.Checksum(b, crcTable))
	binary.LittleEndian.PutUint32(f[56:], crc32.Checksum(f[:56], crcTable))
	copy(f[60:], footerEnd)
	return append(b, f...)
}

// File is a delta.
type File struct {
	r       io.ReaderAt
	size    uint64 // of the content
	extents []extent
	starts  []uint64 // of the extents in the content
	parent  Parent
}

// Open reads the table of a file of size bytes. The error of a damaged one is not
// that of a file that cannot be read.
func Open(r io.ReaderAt, size int64) (*File, error) {
	f := make([]byte, footerSize)
	if size < int64(len(magic)+footerSize) {
		return nil, errTable
	}
	if _, err := r.ReadAt(f, size-footerSize); err != nil {
		return nil, err
	}
	if string(f[60:]) != string(footerEnd) || crc32.Checksum(f[:56], crcTable) != binary.LittleEndian.Uint32(f[56:]) {
		return nil, errTable
	}
	content, table := binary.LittleEndian.Uint64(f), binary.LittleEndian.Uint64(f[8:])
	count, name := binary.LittleEndian.Uint64(f[16:]), uint64(binary.LittleEndian.Uint32(f[24:]))
	end := uint64(size - footerSize)
	if table > end || count > (end-table)/extentSize || name > maxName || end-table != count*extentSize+name {
		return nil, errTable
	}
	b := make([]byte, end-table)
	if _, err := r.ReadAt(b, int64(table)); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, crcTable) != binary.LittleEndian.Uint32(f[48:]) {
		return nil, errTable
	}
	d := &File{r: r, size: content, extents: make([]extent, count), parent: Parent{
		Name: string(b[count*extentSize:]), ID: binary.LittleEndian.Uint64(f[32:]), Length: binary.LittleEndian.Uint64(f[40:]),
	}}
	var at uint64
	for i := range d.extents {
		word := binary.LittleEndian.Uint64(b[i*extentSize:])
		e := extent{word >> sourceShift, word & (1<<sourceShift - 1), binary.LittleEndian.Uint64(b[i*extentSize+8:])}
		limit := map[uint64]uint64{fromFile: table, fromContent: at, fromParent: d.parent.Length}[e.source]
		if e.source > fromParent || e.length == 0 || e.length > limit || e.at > limit-e.length || e.length > content-at {
			return nil, fmt.Errorf("extent %d: %w", i, errTable)
		}
		d.extents[i] = e
		d.starts = append(d.starts, at)
		at += e.length
	}
	if at != content {
		return nil, errTable
	}
	return d, nil
}

// Is tells whether a file begins as a delta.
func Is(r io.ReaderAt) bool {
	b := make([]byte, len(magic))
	_, err := r.ReadAt(b, 0)
	return err == nil && string(b) == string(magic)
}

// Size is the length of the content.
func (f *File) Size() int64 { return int64(f.size) }

// Parent is what the file is based on; its name is empty if it is nothing.
func (f *File) Parent() Parent { return f.parent }
