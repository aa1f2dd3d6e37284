package mm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"testing"
)

// elfWithNote makes a minimal 64-bit file with one segment of notes.
func elfWithNote(id []byte) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint64(b[32:], 64) // e_phoff
	le.PutUint16(b[54:], 56) // e_phentsize
	le.PutUint16(b[56:], 1)  // e_phnum
	note := le.AppendUint32(nil, 4)
	note = le.AppendUint32(note, uint32(len(id)))
	note = le.AppendUint32(note, ntGNUBuildID)
	note = append(append(note, "GNU\x00"...), id...)
	le.PutUint32(b[64:], ptNote)
	le.PutUint64(b[64+8:], uint64(len(b)))
	le.PutUint64(b[64+32:], uint64(len(note)))
	return append(b, note...)
}

func TestBuildID(t *testing.T) {
	info := readELF(bytes.NewReader(elfWithNote([]byte("0123456789abcdef0123"))))
	if !info.elf || !info.is64 || string(info.buildID) != "0123456789abcdef0123" {
		t.Errorf("%+v", info)
	}
	for _, b := range [][]byte{nil, []byte("#!/bin/sh\n"), []byte("\x7fELF")} {
		if info := readELF(bytes.NewReader(b)); info.elf || info.buildID != nil {
			t.Errorf("%q: %+v", b, info)
		}
	}
}

// TestBuildIDOfPrograms compares with package debug/elf.
func TestBuildIDOfPrograms(t *testing.T) {
	for _, path := range []string{"/bin/sh", "/proc/self/exe"} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		e, err := elf.NewFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var want []byte
		for _, p := range e.Progs {
			if p.Type == elf.PT_NOTE && want == nil {
				b := make([]byte, p.Filesz)
				if _, err := p.ReadAt(b, 0); err != nil {
					t.Fatal(err)
				}
				want = findBuildID(b)
			}
		}
		if got := readELF(f).buildID; !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", path, got, want)
		}
	}
}

func FuzzReadELF(f *testing.F) {
	f.Add(elfWithNote([]byte("id")))
	f.Add([]byte("\x7fELF\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id := readELF(bytes.NewReader(b)).buildID; len(id) > maxBuildID {
			t.Fatalf("build id of %d bytes", len(id))
		}
	})
}
