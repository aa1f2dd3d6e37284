package hbuf

import (
	"encoding/binary"
	"fmt"
)

const (
	// HeaderSize is the size of an encoded [Header] in bytes.
	HeaderSize = 64
	// Align is the alignment of records in a packed segment in bytes.
	Align = 64
	// PageSize is the alignment of bulk payloads in bytes.
	PageSize = 4096
	// MaxBulk is the largest payload of a bulk record in bytes.
	MaxBulk = 4 << 20
	// MaxRecord is the largest payload of any other record in bytes.
	MaxRecord = MaxBulk - HeaderSize
)

const (
	headerMagic   = 'F' | 'R'<<8 | 'E'<<16 | 'C'<<24
	headerVersion = 1
)

// Flags are the flags of a [Header].
type Flags uint16

const (
	// FlagBulk marks a record whose payload is not in the packed segment.
	FlagBulk Flags = 1 << 0
	// FlagUnsummed marks a bulk record in an arena whose CRC is not computed
	// yet. It never reaches a [Sink].
	FlagUnsummed Flags = 1 << 1

	knownFlags = FlagBulk | FlagUnsummed
)

// Header describes one record.
type Header struct {
	Flags   Flags
	Kind    uint32
	Version uint16
	Object  uint64
	// Length is the payload's length in bytes.
	Length uint64
	// CRC is the CRC32C of the payload.
	CRC uint32
	// Seq is the record's number in its producer's stream.
	Seq uint64
	// Bulk is the offset of a bulk record's payload in the arena or image.
	Bulk uint64
}

// IsBulk tells whether the payload lies outside the packed segment.
func (h *Header) IsBulk() bool { return h.Flags&FlagBulk != 0 }

// Encode writes the header into the first [HeaderSize] bytes of b, which must
// be that long.
//
//	 0 magic  4 header version  6 flags   8 kind  12 version  14 zero
//	16 object 24 length 32 CRC 36 zero 40 seq 48 bulk 56 zero 60 CRC of 0..59
func (h *Header) Encode(b []byte) {
	b = b[:HeaderSize:HeaderSize]
	binary.LittleEndian.PutUint32(b, headerMagic)
	binary.LittleEndian.PutUint16(b[4:], headerVersion)
	binary.LittleEndian.PutUint16(b[6:], uint16(h.Flags))
	binary.LittleEndian.PutUint32(b[8:], h.Kind)
	binary.LittleEndian.PutUint32(b[12:], uint32(h.Version))
	binary.LittleEndian.PutUint64(b[16:], h.Object)
	binary.LittleEndian.PutUint64(b[24:], h.Length)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.CRC))
	binary.LittleEndian.PutUint64(b[40:], h.Seq)
	binary.LittleEndian.PutUint64(b[48:], h.Bulk)
	binary.LittleEndian.PutUint32(b[56:], 0)
	binary.LittleEndian.PutUint32(b[60:], Checksum(b[:60]))
}

// DecodeHeader reads the header at the beginning of b. What it accepts is what
// [Header.Encode] writes, bit for bit. The error is [ErrCorrupt].
func DecodeHeader(b []byte) (Header, error) {
	var h Header
	if err := h.decode(b); err != nil {
		return Header{}, err
	}
	return h, nil
}

// decode is DecodeHeader into h, whose contents are undefined after an error.
func (h *Header) decode(b []byte) error {
	if len(b) < HeaderSize {
		return fmt.Errorf("record header: %d bytes, want %d: %w", len(b), HeaderSize, ErrCorrupt)
	}
	b = b[:HeaderSize:HeaderSize]
	if binary.LittleEndian.Uint32(b) != headerMagic {
		return fmt.Errorf("record header: no magic number: %w", ErrCorrupt)
	}
	if v := binary.LittleEndian.Uint16(b[4:]); v != headerVersion {
		return fmt.Errorf("record header: unknown version %d: %w", v, ErrCorrupt)
	}
	if binary.LittleEndian.Uint32(b[60:]) != Checksum(b[:60]) {
		return fmt.Errorf("record header: wrong checksum: %w", ErrCorrupt)
	}
	h.Flags = Flags(binary.LittleEndian.Uint16(b[6:]))
	h.Kind = binary.LittleEndian.Uint32(b[8:])
	h.Version = binary.LittleEndian.Uint16(b[12:])
	h.Object = binary.LittleEndian.Uint64(b[16:])
	h.Length = binary.LittleEndian.Uint64(b[24:])
	h.CRC = binary.LittleEndian.Uint32(b[32:])
	h.Seq = binary.LittleEndian.Uint64(b[40:])
	h.Bulk = binary.LittleEndian.Uint64(b[48:])
	reserved := uint32(binary.LittleEndian.Uint16(b[14:])) | binary.LittleEndian.Uint32(b[36:]) | binary.LittleEndian.Uint32(b[56:])
	if reserved != 0 {
		return fmt.Errorf("record header: reserved bytes are set: %w", ErrCorrupt)
	}
	return h.check()
}

// check bounds the fields against each other.
func (h *Header) check() error {
	switch {
	case h.Flags&^knownFlags != 0:
		return fmt.Errorf("record header: unknown flags %#x: %w", h.Flags, ErrCorrupt)
	case h.IsBulk() && (h.Length == 0 || h.Length > MaxBulk):
		return fmt.Errorf("record header: bulk payload of %d bytes: %w", h.Length, ErrCorrupt)
	case !h.IsBulk() && h.Length > MaxRecord:
		return fmt.Errorf("record header: payload of %d bytes: %w", h.Length, ErrCorrupt)
	case !h.IsBulk() && (h.Bulk != 0 || h.Flags&FlagUnsummed != 0):
		return fmt.Errorf("record header: bulk fields without bulk payload: %w", ErrCorrupt)
	case h.Flags&FlagUnsummed != 0 && h.CRC != 0:
		return fmt.Errorf("record header: checksum of a payload without one: %w", ErrCorrupt)
	}
	return nil
}

// stored is the number of bytes that the record takes in a packed segment.
func (h *Header) stored() int {
	if h.IsBulk() {
		return HeaderSize
	}
	return HeaderSize + padded(int(h.Length))
}

// padded rounds n up to the alignment of records.
func padded(n int) int { return (n + Align - 1) &^ (Align - 1) }
