package hbuf

import (
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	cacheLine  = 64
	touchFrom  = 32 << 10 // size from which touching ahead pays
	touchStep  = 8 * cacheLine
	touchAhead = 6 * touchStep
)

// Checksum returns the CRC32C of b, as headers carry it.
//
// The checksum instructions wait for every cache line: 6 GB/s where a copy
// reaches 19. So of large payloads one word of every line is read some lines
// ahead, which the processor does for many lines at once and beside the
// checksum: 15 GB/s.
func Checksum(b []byte) uint32 {
	if len(b) < touchFrom {
		return crc32.Checksum(b, castagnoli)
	}
	var sum uint32
	var seen uint64
	for len(b) >= touchAhead+touchStep {
		seen ^= touch(b[touchAhead:])
		sum = crc32.Update(sum, castagnoli, b[:touchStep])
		b = b[touchStep:]
	}
	touched.Store(seen)
	return crc32.Update(sum, castagnoli, b)
}

// touched keeps the reads of touch from being optimized away.
var touched atomic.Uint64

// touch reads one word of every cache line of the first step of b. The reads do
// not depend on each other.
func touch(b []byte) uint64 {
	_ = b[touchStep-1]
	return binary.LittleEndian.Uint64(b) ^
		binary.LittleEndian.Uint64(b[1*cacheLine:]) ^
		binary.LittleEndian.Uint64(b[2*cacheLine:]) ^
		binary.LittleEndian.Uint64(b[3*cacheLine:]) ^
		binary.LittleEndian.Uint64(b[4*cacheLine:]) ^
		binary.LittleEndian.Uint64(b[5*cacheLine:]) ^
		binary.LittleEndian.Uint64(b[6*cacheLine:]) ^
		binary.LittleEndian.Uint64(b[7*cacheLine:])
}
