package uring

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uring/uringpb"
	"github.com/firn-cr/firn/sdk"
)

// ring makes a ring, or skips the test where there is no io_uring.
func ring(t *testing.T, noArray bool) (int, *memory) {
	t.Helper()
	fd, p, err := setup(8, 16, noArray)
	if err != nil {
		t.Skipf("no io_uring: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	m, err := mapMemory(fd, p, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
	return fd, m
}

// TestAdvance: a ring has counted what another one has, and the kernel overwrites no
// completion that nobody has taken, however the two ends lie.
func TestAdvance(t *testing.T) {
	for _, c := range []struct{ submitted, taken uint32 }{{2, 2}, {7, 3}, {16, 0}, {18, 14}, {1000, 990}, {4099, 4099}} {
		fd, m := ring(t, false)
		if err := m.advance(fd, c.submitted, c.taken); err != nil {
			t.Fatal(err)
		}
		in, err := readInfo(fd)
		if err != nil {
			t.Fatal(err)
		}
		if in.cachedSQHead != c.submitted || in.cachedCQTail != c.submitted || in.cqHead != c.taken {
			t.Errorf("%+v: counts %+v", c, in)
		}
		mark := func(n uint32) []byte {
			at := m.cq.cqes + n%m.cqEntries*cqeSize
			return m.rings[at : at+8]
		}
		for n := c.taken; n != c.submitted; n++ {
			binary.NativeEndian.PutUint64(mark(n), uint64(n)+1)
		}
		room := m.cqEntries - (c.submitted - c.taken)
		for at := c.submitted; at != c.submitted+room; at++ {
			binary.NativeEndian.PutUint64(m.entry(at % m.sqEntries)[32:], 1<<40)
			atomic.StoreUint32(m.word(m.sq.tail), at+1)
			if n, err := enter(fd, 1); n != 1 || err != nil {
				t.Fatalf("%+v: request %d: %d, %v", c, at, n, err)
			}
		}
		for n := c.taken; n != c.submitted; n++ {
			if got := binary.NativeEndian.Uint64(mark(n)); got != uint64(n)+1 {
				t.Errorf("%+v: completion %d was overwritten: %#x", c, n, got)
			}
		}
	}
}

// TestLayout tells rings with and without an array of indices apart by what a program
// leaves in them, and says so where it cannot.
func TestLayout(t *testing.T) {
	for _, noArray := range []bool{false, true} {
		fd, m := ring(t, noArray)
		msg := &uringpb.Ring{Entries: 8, CompletionEntries: 16}
		if err := layout(fd, msg); err == nil {
			t.Errorf("no array %v: a ring that nobody has used has a layout", noArray)
		}
		if err := m.advance(fd, 5, 5); err != nil {
			t.Fatal(err)
		}
		for n := range uint32(5) { // not what empty requests have
			m.entry(n)[0], m.rings[m.cq.cqes+n*cqeSize] = 22, 1
		}
		msg.Submitted = 5
		if err := layout(fd, msg); err != nil || msg.GetNoArray() != noArray {
			t.Errorf("no array %v: is taken for %v, %v", noArray, msg.GetNoArray(), err)
		}
	}
}

// TestFree: what is filled up leaves no place but the one.
func TestFree(t *testing.T) {
	s := &space{used: []sdk.AddrRange{{Start: 0x400000, End: 0x500000}, {Start: 0x500000, End: 0x501000}, {Start: 0x7000_0000_0000, End: 0x7000_0000_2000}}}
	want := &uringpb.Mapping{Start: 0x6000_0000_0000, End: 0x6000_0000_1000}
	if err := s.add(want, source{own: 3}); err != nil {
		t.Fatal(err)
	}
	at := uint64(lowestAddress)
	for _, r := range append(s.free(), sdk.AddrRange{Start: highestAddress, End: highestAddress}) {
		for at < r.Start { // a part that is used
			end := at
			for _, u := range s.used {
				if u.Start <= at && at < u.End {
					end = u.End
				}
			}
			if end == at {
				t.Fatalf("%x is neither used nor free", at)
			}
			at = end
		}
		at = r.End
	}
	if err := s.add(want, source{own: 3}); err == nil {
		t.Error("the place was given twice")
	}
}
