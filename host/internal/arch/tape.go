package arch

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The region of a process is a page of code (see [TapeCode]) followed by one
// slice per thread. A slice:
//
//	 0 u64 progress      executed entries; written by the interpreter
//	 8 u64 count         entries
//	16 u64 entries       address of the first entry
//	24 u64 frame         stack pointer for the final rt_sigreturn
//	32 u32 status        0 running, 1 done; written by the interpreter
//	36 u32 zero
//	40 2*u64 timeout     struct timespec of the final ppoll
//	56 u64 zero
//	64 emergency frame
//	   entries, at EntriesOffset
//
// The size of a slice is EntriesOffset + count*EntrySize; data follows at will.
const (
	OffProgress = 0
	OffCount    = 8
	OffEntries  = 16
	OffFrame    = 24
	OffStatus   = 32
	OffTimeout  = 40
	HeaderSize  = 64
	// SliceAlign is the alignment that the address of a slice must have.
	SliceAlign = 64
)

// An entry:
//
//	 0 u32 system call number
//	 4 u16 flags          bit 0: go on if the call fails
//	 6 u16 from result    bit n: argument n is the index of an earlier entry
//	 8 6*u64 arguments
//	56 i64 result         written by the interpreter
const (
	EntrySize      = 64
	offEntryFlags  = 4
	offEntryMask   = 6
	offEntryArgs   = 8
	offEntryResult = 56

	entryAllowError = 1
)

// EncodeEntry writes one entry of EntrySize bytes to dst. An argument that is
// marked in fromResult is replaced by the result of the entry with that index
// in the same slice, which must be an earlier one.
func EncodeEntry(dst []byte, nr int, allowError bool, args [6]uint64, fromResult [6]bool) {
	_ = dst[EntrySize-1]
	var flags, mask uint16
	if allowError {
		flags = entryAllowError
	}
	for i, a := range args {
		if fromResult[i] {
			mask |= 1 << i
		}
		binary.LittleEndian.PutUint64(dst[offEntryArgs+8*i:], a)
	}
	binary.LittleEndian.PutUint32(dst, uint32(nr))
	binary.LittleEndian.PutUint16(dst[offEntryFlags:], flags)
	binary.LittleEndian.PutUint16(dst[offEntryMask:], mask)
	binary.LittleEndian.PutUint64(dst[offEntryResult:], 0)
}

// EntryResult returns the result of an entry that was executed: a negative
// errno if the call failed.
func EntryResult(entry []byte) int64 {
	return int64(binary.LittleEndian.Uint64(entry[offEntryResult:]))
}

// EntriesOffset is where the entries of a slice start if its emergency frame
// holds xstateLen bytes of extended state.
func EntriesOffset(xstateLen int) int {
	return HeaderSize + alignUp(frameSize(xstateLen), SliceAlign)
}

// PlaceTape writes the header and the emergency frame into slice, which lies at
// addr (a multiple of SliceAlign) of the task, and returns the registers to
// start with. The entries are the caller's, before or after. The stack pointer
// stays the task's own: the interpreter uses no stack, and a handler that runs
// in between uses the program's.
//
// The interpreter executes the entries up to the first one that fails without
// being allowed to, sets the status, wakes futex waiters on the status word and
// sleeps for timeout. If nobody takes it from there, it returns by rt_sigreturn
// to orig, with the restart of an interrupted system call prepared as by
// [Regs.Restored].
func PlaceTape(slice []byte, addr, code uint64, count int, orig Regs, xstate []byte, mask uint64, timeout time.Duration) (Regs, error) {
	if addr%SliceAlign != 0 {
		return Regs{}, fmt.Errorf("place tape: address %#x is not aligned to %d", addr, SliceAlign)
	}
	entries := EntriesOffset(len(xstate))
	if count < 0 || len(slice) < entries+count*EntrySize {
		return Regs{}, fmt.Errorf("place tape: %d entries do not fit into %d bytes", count, len(slice))
	}
	sp, err := putFrame(slice[HeaderSize:entries], addr+HeaderSize, 0, orig.Restored(), xstate, mask)
	if err != nil {
		return Regs{}, fmt.Errorf("place tape: %w", err)
	}
	clear(slice[:HeaderSize])
	le := binary.LittleEndian
	le.PutUint64(slice[OffCount:], uint64(count))
	le.PutUint64(slice[OffEntries:], addr+uint64(entries))
	le.PutUint64(slice[OffFrame:], sp)
	le.PutUint64(slice[OffTimeout:], uint64(timeout/time.Second))
	le.PutUint64(slice[OffTimeout+8:], uint64(timeout%time.Second))
	return tapeRegs(orig, addr, code), nil
}
