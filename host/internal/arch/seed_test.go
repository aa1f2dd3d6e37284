package arch

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

func TestSeedELF(t *testing.T) {
	image, syscallAddr, initAddr := Seed()
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || f.Class != elf.ELFCLASS64 || len(f.Progs) != 1 || f.ByteOrder != binary.LittleEndian {
		t.Fatalf("header %+v", f.FileHeader)
	}
	p := f.Progs[0]
	if p.Type != elf.PT_LOAD || p.Flags != elf.PF_R|elf.PF_X || p.Filesz != uint64(len(image)) {
		t.Errorf("segment %+v", p.ProgHeader)
	}
	off := syscallAddr - p.Vaddr
	if off > uint64(len(image)) || !bytes.HasPrefix(image[off:], syscallInsn) {
		t.Errorf("no system call instruction at %#x", syscallAddr)
	}
	if code := image[f.Entry-p.Vaddr:]; !bytes.HasPrefix(code, seedCode) {
		t.Errorf("entry %#x", f.Entry)
	}
	if code := image[initAddr-p.Vaddr:]; !bytes.Equal(code, initCode) {
		t.Errorf("no program of an init at %#x", initAddr)
	}
}
