package procfs

import (
	"encoding/binary"
	"fmt"
	"os"
)

// Page is one entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
type Page uint64

// Bits of a [Page].
const (
	pageExclusive = 1 << 56
	pageGuard     = 1 << 58
	pageFile      = 1 << 61
	pageSwapped   = 1 << 62
	pagePresent   = 1 << 63
)

// Present tells whether the page is in memory and mapped.
func (p Page) Present() bool { return p&pagePresent != 0 }

// Swapped tells whether the page is on swap.
func (p Page) Swapped() bool { return p&pageSwapped != 0 }

// File tells whether the page belongs to a file or is shared anonymous memory.
func (p Page) File() bool { return p&pageFile != 0 }

// Exclusive tells whether no other process maps the page.
func (p Page) Exclusive() bool { return p&pageExclusive != 0 }

// Guard tells whether the page is a guard (MADV_GUARD_INSTALL). The kernel
// says so since Linux 6.15.
func (p Page) Guard() bool { return p&pageGuard != 0 }

// pagemapEntry is the size of an entry in bytes.
const pagemapEntry = 8

// Pagemap reads the pagemap of one process. Safe for concurrent use.
type Pagemap struct {
	f        *os.File
	pageSize uint64
}

// OpenPagemap opens /proc/PID/pagemap. It keeps looking at the address space
// that the process has now, also after an execve(2).
func OpenPagemap(pid int) (*Pagemap, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, fmt.Errorf("open pagemap: %w", err)
	}
	return &Pagemap{f: f, pageSize: uint64(os.Getpagesize())}, nil
}

// File is the open file, for ioctl_pagemap_scan(2). It belongs to the Pagemap.
func (p *Pagemap) File() *os.File { return p.f }

// Close closes the file.
func (p *Pagemap) Close() error { return p.f.Close() }

// Read fills pages with the entries from the page of addr on. scratch holds the
// raw bytes; it is grown as needed and returned for the next call.
func (p *Pagemap) Read(addr uint64, pages []Page, scratch []byte) ([]byte, error) {
	n := len(pages) * pagemapEntry
	if cap(scratch) < n {
		scratch = make([]byte, n)
	}
	scratch = scratch[:n]
	if _, err := p.f.ReadAt(scratch, int64(addr/p.pageSize)*pagemapEntry); err != nil {
		return scratch, fmt.Errorf("read pagemap at %#x: %w", addr, err)
	}
	return scratch, ParsePagemap(scratch, pages)
}

// ParsePagemap decodes as many entries as pages holds.
func ParsePagemap(b []byte, pages []Page) error {
	if len(b) != len(pages)*pagemapEntry {
		return malformed("%d bytes of pagemap for %d pages", len(b), len(pages))
	}
	for i := range pages {
		pages[i] = Page(binary.NativeEndian.Uint64(b[i*pagemapEntry:]))
	}
	return nil
}
