package hbuf

import (
	"os"
	"testing"
	"unsafe"

	"github.com/firn-cr/firn/sdk/procfs"
)

// present counts the pages of b that this process has in its page tables.
func present(t *testing.T, b []byte) int {
	t.Helper()
	m, err := procfs.OpenPagemap(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	pages := make([]procfs.Page, len(b)/PageSize)
	if _, err := m.Read(uint64(uintptr(unsafe.Pointer(&b[0]))), pages, nil); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range pages {
		if p.Present() {
			n++
		}
	}
	return n
}

// TestWarm: what the plugin asks for is in its page tables before the host
// grants it, and no more than the arena has.
func TestWarm(t *testing.T) {
	s := open(t, Config{Warm: 1 << 20, ArenaSize: 32 << 20})
	mem := s.p.c.(*link).mem
	before := present(t, mem)
	s.p.Warm(8 << 20)
	if got := present(t, mem) * PageSize; got < before*PageSize || got < 8<<20 || got > 16<<20 {
		t.Errorf("%d bytes are there after warming 8 MiB", got)
	}
	s.p.Warm(1 << 40)
	l := s.p.c.(*link)
	if data := mem[uint64(l.first)*l.segment:]; present(t, data)*PageSize != len(data) {
		t.Errorf("%d of %d bytes are there after warming everything", present(t, data)*PageSize, len(data))
	}
	NewMemoryProducer(nil).Warm(1 << 20)
}
