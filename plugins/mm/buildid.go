package mm

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Limits on what is read of an ELF file: headers and notes may claim any size.
const (
	maxPhdrs    = 1024
	maxNoteSize = 64 << 10
	maxBuildID  = 64
)

// ELF constants (elf(5)).
const (
	elfClass64   = 2
	elfLittle    = 1
	ptNote       = 4
	ntGNUBuildID = 3
)

// elfInfo is what the plugin wants to know of an ELF file.
type elfInfo struct {
	elf     bool
	is64    bool
	buildID []byte // nil if there is none
}

// readELF looks at a file or at the image of a vdso. What is not a well-formed
// little-endian ELF file has no build id; that is no error.
func readELF(r io.ReaderAt) elfInfo {
	var hdr [64]byte
	if n, _ := r.ReadAt(hdr[:], 0); n < 52 || !bytes.HasPrefix(hdr[:], []byte("\x7fELF")) {
		return elfInfo{}
	}
	info := elfInfo{elf: true, is64: hdr[4] == elfClass64}
	if hdr[5] != elfLittle {
		return info
	}
	le := binary.LittleEndian
	var phoff int64
	var phsize, phnum int
	if info.is64 {
		phoff, phsize, phnum = int64(le.Uint64(hdr[32:])), int(le.Uint16(hdr[54:])), int(le.Uint16(hdr[56:]))
	} else {
		phoff, phsize, phnum = int64(le.Uint32(hdr[28:])), int(le.Uint16(hdr[42:])), int(le.Uint16(hdr[44:]))
	}
	want := 32
	if info.is64 {
		want = 56
	}
	if phoff <= 0 || phsize != want || phnum > maxPhdrs {
		return info
	}
	phdrs := make([]byte, phnum*phsize)
	if _, err := r.ReadAt(phdrs, phoff); err != nil {
		return info
	}
	for ; len(phdrs) > 0 && info.buildID == nil; phdrs = phdrs[phsize:] {
		info.buildID = noteBuildID(r, phdrs[:phsize], info.is64)
	}
	return info
}

// noteBuildID looks for the build id in the segment that a program header
// describes, if it is one of notes.
func noteBuildID(r io.ReaderAt, ph []byte, is64 bool) []byte {
	le := binary.LittleEndian
	if le.Uint32(ph) != ptNote {
		return nil
	}
	off, size := uint64(le.Uint32(ph[4:])), uint64(le.Uint32(ph[16:]))
	if is64 {
		off, size = le.Uint64(ph[8:]), le.Uint64(ph[32:])
	}
	if size > maxNoteSize || off > 1<<62 {
		return nil
	}
	notes := make([]byte, size)
	if _, err := r.ReadAt(notes, int64(off)); err != nil {
		return nil
	}
	return findBuildID(notes)
}

// findBuildID walks over notes:
//
//	0 u32 length of the name   4 u32 length of the content   8 u32 type
//	name, padded to 4; content, padded to 4
func findBuildID(b []byte) []byte {
	le := binary.LittleEndian
	for len(b) >= 12 {
		name, desc, typ := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:])), le.Uint32(b[8:])
		b = b[12:]
		padName, padDesc := (name+3)&^3, (desc+3)&^3
		if padName > uint64(len(b)) || desc > uint64(len(b))-padName {
			return nil
		}
		if typ == ntGNUBuildID && string(b[:name]) == "GNU\x00" && desc > 0 && desc <= maxBuildID {
			return bytes.Clone(b[padName : padName+desc])
		}
		b = b[min(padName+padDesc, uint64(len(b))):]
	}
	return nil
}
