package procfs

import (
	"errors"
	"os"
	"slices"
	"testing"
)

const smapsSample = `7f00000-7f10000 rw-p 00000000 00:00 0                            [anon:a]
Size:                 64 kB
KernelPageSize:        4 kB
Rss:                  16 kB
Anonymous:            16 kB
AnonHugePages:         0 kB
Swap:                  4 kB
THPeligible:           0
ProtectionKey:         3
VmFlags: rd wr mr mw me gd lo ac zz 
aaaaaaaa0000-aaaaaaaa1000 r--s 00000000 00:00 7                          /f
VmFlags: rd mr me ms 
`

func TestParseSmaps(t *testing.T) {
	maps, err := ParseSmaps([]byte(smapsSample))
	if err != nil {
		t.Fatal(err)
	}
	if len(maps) != 2 {
		t.Fatalf("%d mappings, want 2", len(maps))
	}
	m := maps[0]
	if m.Rss != 16<<10 || m.Anonymous != 16<<10 || m.Swap != 4<<10 || m.ProtectionKey != 3 || m.KernelPageSize != 4096 {
		t.Errorf("sizes: %+v", m)
	}
	if m.Flags.String() != "rd wr mr mw me gd lo ac" || !slices.Equal(m.UnknownFlags, []string{"zz"}) {
		t.Errorf("flags %q, unknown %q", m.Flags, m.UnknownFlags)
	}
	if maps[1].Path != "/f" || maps[1].Flags != VMRead|VMMayRead|VMMayExec|VMMayShare {
		t.Errorf("second: %+v", maps[1])
	}
}

func TestSmapsOfSelf(t *testing.T) {
	maps, err := Smaps(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		if m.Path == "[stack]" && m.Flags.Has(VMGrowsDown|VMRead|VMWrite) {
			return
		}
	}
	t.Error("no stack found")
}

func TestParseSmapsRefuses(t *testing.T) {
	for _, s := range []string{"Rss: 1 kB\n", "1000-2000 rw-p 0 00:00 0\nRss: x kB\n", "1000-2000 rw-p 0 00:00 0\nRss\n"} {
		if _, err := ParseSmaps([]byte(s)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestRollupOfSelf(t *testing.T) {
	r, err := SmapsRollup(os.Getpid())
	if err != nil || r.Rss == 0 || r.Anonymous == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func FuzzParseSmaps(f *testing.F) {
	f.Add([]byte(smapsSample))
	f.Fuzz(func(t *testing.T, b []byte) {
		maps, err := ParseSmaps(b)
		for i := 1; err == nil && i < len(maps); i++ {
			if maps[i].Start < maps[i-1].End {
				t.Fatal("not in order")
			}
		}
		_, _ = ParseSmapsRollup(b)
	})
}
