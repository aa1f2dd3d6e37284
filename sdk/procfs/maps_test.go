package procfs

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

const mapsSample = `00400000-00401000 r-xp 00002000 fe:01 247026                     /usr/bin/a b
7ffff7d00000-7ffff7d01000 rw-s 00001000 00:05 12                         /dev/zero (deleted)
7ffff7f00000-7ffff7f01000 ---p 00000000 00:00 0 
7ffff7fbd000-7ffff7fc1000 r--p 00000000 00:00 0                          [vvar]
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`

func TestParseMaps(t *testing.T) {
	maps, err := ParseMaps([]byte(mapsSample))
	if err != nil {
		t.Fatal(err)
	}
	if len(maps) != 6 {
		t.Fatalf("%d mappings, want 6", len(maps))
	}
	want := Mapping{Start: 0x400000, End: 0x401000, Perm: "r-xp", Offset: 0x2000,
		Dev: unix.Mkdev(0xfe, 1), Ino: 247026, Path: "/usr/bin/a b"}
	if maps[0] != want {
		t.Errorf("got %+v, want %+v", maps[0], want)
	}
	if z := maps[1]; !z.Shared() || !z.Deleted() || z.Name() != "/dev/zero" || !z.Writable() {
		t.Errorf("shared memory: %+v", z)
	}
	if a := maps[2]; a.Path != "" || a.Readable() || a.Executable() {
		t.Errorf("anonymous: %+v", a)
	}
	if maps[5].Path != "[vsyscall]" {
		t.Errorf("path %q", maps[5].Path)
	}
}

func TestMapsOfSelf(t *testing.T) {
	maps, err := Maps(os.Getpid())
	if err != nil || len(maps) == 0 {
		t.Fatalf("%d mappings, %v", len(maps), err)
	}
}

func TestParseMapsRefuses(t *testing.T) {
	for _, s := range []string{
		"x", "1-2", "2000-1000 rw-p 0 00:00 0", "1000-2000 rwzp 0 00:00 0",
		"1000-2000 rw-p 0 00:00 ", "1000-2000 rw-p 0 fffff:00 0 ",
		"10000000000000000-20000000000000000 rw-p 0 00:00 0",
		"1000-3000 rw-p 0 00:00 0\n2000-4000 rw-p 0 00:00 0\n",
	} {
		if _, err := ParseMaps([]byte(s)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte(mapsSample))
	f.Fuzz(func(t *testing.T, b []byte) {
		maps, err := ParseMaps(b)
		if err != nil {
			return
		}
		var out []byte
		for _, m := range maps {
			out = fmt.Appendf(out, "%08x-%08x %s %08x %02x:%02x %d %s\n", m.Start, m.End, m.Perm,
				m.Offset, unix.Major(m.Dev), unix.Minor(m.Dev), m.Ino, m.Path)
		}
		again, err := ParseMaps(out)
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		for i := range maps {
			if maps[i] != again[i] {
				t.Fatalf("%+v became %+v", maps[i], again[i])
			}
		}
	})
}

func BenchmarkParseMaps(b *testing.B) {
	for b.Loop() {
		if _, err := ParseMaps([]byte(mapsSample)); err != nil {
			b.Fatal(err)
		}
	}
}
