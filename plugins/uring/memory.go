package uring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is what kernel and program share of a ring, mapped here.
type mapping struct{ rings, entries []byte }

// mapRing maps a ring with these sizes.
func mapRing(fd, rings, entries, prot int) (m mapping, err error) {
	if m.rings, err = unix.Mmap(fd, offSQRing, rings, prot, unix.MAP_SHARED); err != nil {
		return m, fmt.Errorf("map rings: %w", err)
	}
	if m.entries, err = unix.Mmap(fd, offSQEs, entries, prot, unix.MAP_SHARED); err != nil {
		return m, errors.Join(fmt.Errorf("map entries: %w", err), unix.Munmap(m.rings))
	}
	return m, nil
}

func (m *mapping) close() error { return errors.Join(unix.Munmap(m.rings), unix.Munmap(m.entries)) }

// memory is the same, of a ring whose layout is known.
type memory struct {
	*params
	mapping
}

func mapMemory(fd int, p *params, prot int) (*memory, error) {
	m, err := mapRing(fd, p.ringsBytes(), p.entriesBytes(), prot)
	if err != nil {
		return nil, err
	}
	return &memory{p, m}, nil
}

// word is one of the counters that kernel and program share.
func (m *memory) word(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&m.rings[offset])) }

func (m *memory) array(n uint32) uint32 {
	return binary.NativeEndian.Uint32(m.rings[m.sq.array+4*n:])
}

func (m *memory) entry(n uint32) []byte { return m.entries[n*sqeSize : (n+1)*sqeSize] }

// advance sends empty requests through a new ring until as many have gone as went
// through the old one. Completions are taken up to where the program had taken
// them: the kernel then keeps the places of the others.
func (m *memory) advance(fd int, submitted, taken uint32) error {
	clear(m.entries)
	if m.flags&setupNoSQArray == 0 {
		for i := range m.sqEntries {
			binary.NativeEndian.PutUint32(m.rings[m.sq.array+4*i:], i)
		}
	}
	for at := uint32(0); at != submitted; {
		limit := submitted
		if at < taken {
			limit = taken
		}
		n := min(limit-at, m.sqEntries)
		atomic.StoreUint32(m.word(m.sq.tail), at+n)
		got, err := enter(fd, n)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || got <= 0 {
			return fmt.Errorf("io_uring_enter: %d of %d entries: %w", got, n, err)
		}
		at += uint32(got)
		atomic.StoreUint32(m.word(m.cq.head), min(at, taken))
	}
	return nil
}
