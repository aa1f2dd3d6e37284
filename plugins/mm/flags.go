package mm

import (
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Flags that golang.org/x/sys/unix does not have.
const (
	mapDroppable      = 0x08 // MAP_DROPPABLE, Linux 6.11
	madvGuardInstall  = 102  // MADV_GUARD_INSTALL, Linux 6.13
	flagSetOfAllKnown = 1<<(mmpb.Flag_FLAG_SEALED+1) - 2
)

// carriedFlags are the VmFlags that have a Flag of the same meaning.
var carriedFlags = []struct {
	vm   procfs.VMFlags
	flag mmpb.Flag
}{
	{procfs.VMGrowsDown, mmpb.Flag_FLAG_GROWS_DOWN},
	{procfs.VMAccount, mmpb.Flag_FLAG_ACCOUNT},
	{procfs.VMNoReserve, mmpb.Flag_FLAG_NO_RESERVE},
	{procfs.VMDroppable, mmpb.Flag_FLAG_DROPPABLE},
	{procfs.VMLocked, mmpb.Flag_FLAG_LOCKED},
	{procfs.VMSeqRead, mmpb.Flag_FLAG_SEQUENTIAL},
	{procfs.VMRandRead, mmpb.Flag_FLAG_RANDOM},
	{procfs.VMDontCopy, mmpb.Flag_FLAG_DONT_FORK},
	{procfs.VMWipeOnFork, mmpb.Flag_FLAG_WIPE_ON_FORK},
	{procfs.VMDontDump, mmpb.Flag_FLAG_DONT_DUMP},
	{procfs.VMHugePage, mmpb.Flag_FLAG_HUGE_PAGE},
	{procfs.VMNoHugePage, mmpb.Flag_FLAG_NO_HUGE_PAGE},
	{procfs.VMMergeable, mmpb.Flag_FLAG_MERGEABLE},
	{procfs.VMSealed, mmpb.Flag_FLAG_SEALED},
}

// flagBits is the set of flags of a live mapping.
func flagBits(m *procfs.Smap) uint64 {
	var set uint64
	for _, c := range carriedFlags {
		if m.Flags.Has(c.vm) {
			set |= 1 << c.flag
		}
	}
	if m.Shared() {
		set |= 1 << mmpb.Flag_FLAG_SHARED
		if m.Flags.Has(procfs.VMMayWrite) {
			set |= 1 << mmpb.Flag_FLAG_MAY_WRITE
		}
	}
	// Not every kernel says lf; what is locked and not all there was locked so.
	if m.Flags.Has(procfs.VMLocked) && (m.Flags.Has(procfs.VMLockOnFault) || m.Rss+m.Swap < m.Len()) {
		set |= 1 << mmpb.Flag_FLAG_LOCK_ON_FAULT
	}
	return set
}

// has tells whether a mapping of an image has a flag.
func has(m *mmpb.Mapping, f mmpb.Flag) bool { return m.Flags>>f&1 != 0 }

// mmapFlags are the flags of mmap(2) that make a mapping of the kind.
func mmapFlags(m *mmpb.Mapping) int {
	flags := unix.MAP_FIXED_NOREPLACE
	switch {
	case has(m, mmpb.Flag_FLAG_DROPPABLE):
		flags |= mapDroppable
	case has(m, mmpb.Flag_FLAG_SHARED):
		flags |= unix.MAP_SHARED
	default:
		flags |= unix.MAP_PRIVATE
	}
	if m.Kind == mmpb.Kind_KIND_ANONYMOUS {
		flags |= unix.MAP_ANONYMOUS
	}
	if has(m, mmpb.Flag_FLAG_GROWS_DOWN) {
		flags |= unix.MAP_GROWSDOWN
	}
	if has(m, mmpb.Flag_FLAG_NO_RESERVE) {
		flags |= unix.MAP_NORESERVE
	}
	return flags
}

// advice is one madvise(2) call.
type advice struct {
	flag mmpb.Flag
	call int
	// must is false for what is a hint to this kernel, which it may not know.
	must bool
}

// adviceBefore is given before the memory is filled: it decides on the size of
// the pages.
var adviceBefore = []advice{
	{mmpb.Flag_FLAG_HUGE_PAGE, unix.MADV_HUGEPAGE, false},
	{mmpb.Flag_FLAG_NO_HUGE_PAGE, unix.MADV_NOHUGEPAGE, false},
}

// adviceAfter is given to the filled memory.
var adviceAfter = []advice{
	{mmpb.Flag_FLAG_SEQUENTIAL, unix.MADV_SEQUENTIAL, false},
	{mmpb.Flag_FLAG_RANDOM, unix.MADV_RANDOM, false},
	{mmpb.Flag_FLAG_DONT_FORK, unix.MADV_DONTFORK, true},
	{mmpb.Flag_FLAG_WIPE_ON_FORK, unix.MADV_WIPEONFORK, true},
	{mmpb.Flag_FLAG_DONT_DUMP, unix.MADV_DONTDUMP, true},
	{mmpb.Flag_FLAG_MERGEABLE, unix.MADV_MERGEABLE, false},
}
