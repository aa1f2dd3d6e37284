package procfs

import (
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPagemapOfSelf(t *testing.T) {
	size := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, 4*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	mem[size] = 1
	p, err := OpenPagemap(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	pages := make([]Page, 2)
	if _, err := p.Read(addressOf(mem), pages, nil); err != nil {
		t.Fatal(err)
	}
	if pages[0].Present() || !pages[1].Present() || pages[1].File() || pages[1].Guard() || !pages[1].Exclusive() {
		t.Errorf("pages %x", pages)
	}
}

func FuzzParsePagemap(f *testing.F) {
	f.Add(make([]byte, 24), 3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > 1<<16 {
			return
		}
		pages := make([]Page, n)
		if err := ParsePagemap(b, pages); err != nil {
			return
		}
		for i, p := range pages {
			if uint64(p) != binary.NativeEndian.Uint64(b[i*8:]) {
				t.Fatal("wrong entry")
			}
		}
	})
}

func TestAuxvOfSelf(t *testing.T) {
	b, err := Auxv(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	vec, err := ParseAuxv(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range vec {
		if a.Type == AuxSysinfoEHDR && a.Value != 0 {
			return
		}
	}
	t.Errorf("no vdso in %v", vec)
}

func FuzzParseAuxv(f *testing.F) {
	f.Add(make([]byte, 32))
	f.Fuzz(func(t *testing.T, b []byte) {
		vec, err := ParseAuxv(b)
		if err == nil && len(vec)*16 >= len(b) {
			t.Fatal("more entries than bytes")
		}
	})
}
