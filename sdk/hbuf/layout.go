package hbuf

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// Offsets in the control area. Each word has a cache line of its own; the
// words below hostPage are written by the plugin, the others by the host.
const (
	wordSubmissions   = 0
	wordWanted        = 64
	wordBarrier       = 128
	wordPluginSleeps  = 192
	hostPage          = PageSize
	wordCompletions   = hostPage + 0
	wordAccepted      = hostPage + 64
	wordWritten       = hostPage + 128
	wordHostSleeps    = hostPage + 192
	wordState         = hostPage + 256
	ringsOffset       = 2 * PageSize
	stateClosed       = 1
	packedRegion      = 8 // segments at the start that bulk runs leave free if they can
	maxArena          = 1 << 40
	minSegment        = PageSize
	minArenaData      = 2 // segments
	ringEntrySize     = 8
	ringsPerDirection = 2
)

// layout is the geometry of an arena.
type layout struct {
	size    uint64 // of the memfd in bytes
	segment uint64 // bytes
	entries uint64 // of each ring; a power of two
	first   int    // first segment behind the control area
	total   int    // segments with the control area
}

// newLayout computes the geometry from what both sides know.
func newLayout(size uint64, segment uint32) (layout, error) {
	if segment < minSegment || segment > MaxBulk || segment%PageSize != 0 {
		return layout{}, fmt.Errorf("arena: segments of %d bytes: %w", segment, ErrProtocol)
	}
	if size > maxArena || size%uint64(segment) != 0 {
		return layout{}, fmt.Errorf("arena: %d bytes in segments of %d: %w", size, segment, ErrProtocol)
	}
	l := layout{size: size, segment: uint64(segment), total: int(size / uint64(segment))}
	l.entries = 1 << bits.Len(uint(l.total))
	l.first = l.runLen(l.control())
	if l.total < l.first+minArenaData {
		return layout{}, fmt.Errorf("arena: %d bytes in segments of %d are too few: %w", size, segment, ErrProtocol)
	}
	return l, nil
}

// control is the length of what the control area holds, in whole pages.
func (l *layout) control() uint64 {
	return (ringsOffset + ringsPerDirection*ringEntrySize*l.entries + PageSize - 1) &^ (PageSize - 1)
}

// runLen is the number of segments that n bytes take.
func (l *layout) runLen(n uint64) int { return int((n + l.segment - 1) / l.segment) }

// arena is a mapped arena.
type arena struct {
	layout
	mem []byte
}

// word returns a control word or ring entry. Both sides run on one machine, so
// the words have the byte order of the machine, which is little endian on both
// supported architectures.
func (a *arena) word(off uint64) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&a.mem[off]))
}

// submission is entry i of the ring from plugin to host.
func (a *arena) submission(i uint64) *atomic.Uint64 {
	return a.word(ringsOffset + (i&(a.entries-1))*ringEntrySize)
}

// completion is entry i of the ring from host to plugin.
func (a *arena) completion(i uint64) *atomic.Uint64 {
	return a.word(ringsOffset + (a.entries+i&(a.entries-1))*ringEntrySize)
}

// run returns the memory of n bytes from segment first on.
func (a *arena) run(first int, n int) []byte {
	off := uint64(first) * a.segment
	return a.mem[off : off+uint64(n) : off+uint64(n)]
}

// entry packs the two halves of a ring entry.
func entry(first int, n int) uint64 { return uint64(uint32(first)) | uint64(uint32(n))<<32 }

// entryParts unpacks a ring entry. The halves are what the peer wrote.
func entryParts(e uint64) (first, n uint32) { return uint32(e), uint32(e >> 32) }
