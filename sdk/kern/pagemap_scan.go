package kern

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PageCategory is a set of PAGE_IS_ categories (linux/fs.h).
type PageCategory uint64

// The categories of ioctl_pagemap_scan(2).
const (
	PageWPAllowed PageCategory = 1 << iota // asynchronous write protection is possible
	PageWritten                            // written since it was write-protected
	PageFile                               // of a file or shared anonymous
	PagePresent                            // in memory and mapped
	PageSwapped                            // on swap
	PagePFNZero                            // the kernel's page of zeros
	PageHuge                               // in a transparent huge page
	PageSoftDirty                          // soft-dirty
	PageGuard                              // MADV_GUARD_INSTALL; Linux 6.15
)

// PageRegion is a run of pages with the same categories.
type PageRegion struct {
	Start, End uint64
	Categories PageCategory
}

// PagemapScanArgs selects the pages that [PagemapScan] reports.
type PagemapScanArgs struct {
	Start, End uint64
	// Inverted categories are looked at as if negated.
	Inverted PageCategory
	// All of these must be set, and one of Any if that is not empty.
	All, Any PageCategory
	// Return are the categories that regions are split by.
	Return PageCategory
}

// pmScanArg is struct pm_scan_arg.
type pmScanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
	inverted, mask, anyof, ret                              uint64
}

// ioctlPagemapScan is PAGEMAP_SCAN: _IOWR('f', 16, struct pm_scan_arg).
const ioctlPagemapScan = 0xc0606610

// PagemapScan fills regions with what it finds and returns how many there are
// and where the scan ended: at Args.End, or before it because regions is full.
// The file is /proc/PID/pagemap. Since Linux 6.7; ENOTTY before.
func PagemapScan(pagemap *os.File, a PagemapScanArgs, regions []PageRegion) (n int, end uint64, err error) {
	if len(regions) == 0 {
		return 0, a.Start, unix.EINVAL
	}
	arg := pmScanArg{start: a.Start, end: a.End, vecLen: uint64(len(regions)),
		inverted: uint64(a.Inverted), mask: uint64(a.All), anyof: uint64(a.Any), ret: uint64(a.Return)}
	arg.size = uint64(unsafe.Sizeof(arg))
	var pin runtime.Pinner
	pin.Pin(&regions[0]) // the kernel gets its address inside arg
	defer pin.Unpin()
	arg.vec = uint64(uintptr(unsafe.Pointer(&regions[0])))
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap.Fd(), ioctlPagemapScan, uintptr(unsafe.Pointer(&arg)))
	runtime.KeepAlive(pagemap)
	if errno != 0 {
		return 0, a.Start, errno
	}
	if r > uintptr(len(regions)) {
		return 0, a.Start, fmt.Errorf("pagemap scan returned %d of %d regions", r, len(regions))
	}
	return int(r), arg.walkEnd, nil
}

// HavePagemapScan tells whether the kernel has PAGEMAP_SCAN and which of the
// wanted categories it knows.
func HavePagemapScan(want PageCategory) (known PageCategory, err error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var one [1]PageRegion
	for c := PageCategory(1); c <= PageGuard; c <<= 1 {
		if want&c == 0 {
			continue
		}
		_, _, err := PagemapScan(f, PagemapScanArgs{Start: 0, End: 4096 << 4, Any: c, Return: c}, one[:])
		if errors.Is(err, unix.EINVAL) {
			continue
		}
		if err != nil {
			return 0, err
		}
		known |= c
	}
	return known, nil
}
