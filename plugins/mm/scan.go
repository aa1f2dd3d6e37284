package mm

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// content is what has to be saved of one process's memory.
type content struct {
	pages  []run
	guards []run
}

// scanRegions is how many regions one PAGEMAP_SCAN may return.
const scanRegions = 512

// scanCategories are the categories that PAGEMAP_SCAN can tell on this kernel;
// 0 where there is no PAGEMAP_SCAN (before Linux 6.7).
var scanCategories = sync.OnceValue(func() kern.PageCategory {
	want := kern.PagePresent | kern.PageSwapped | kern.PageFile | kern.PagePFNZero | kern.PageGuard
	known, err := kern.HavePagemapScan(want)
	if err != nil {
		return 0
	}
	return known
})

// stored tells whether pages of a mapping may be in the image: shared memory
// is saved per object, and droppable memory may be lost at any time.
func (v *vma) stored() bool {
	return v.kind != mmpb.Kind_KIND_UNSPECIFIED && !v.Shared() && !v.Flags.Has(procfs.VMDroppable)
}

// anonymous tells whether the mapping shows no file: all its pages are the
// process's own, and one that is all zero need not be saved.
func (v *vma) anonymous() bool {
	return v.kind == mmpb.Kind_KIND_ANONYMOUS || v.kind == mmpb.Kind_KIND_ZERO
}

// scan finds the pages of a process that have to be saved: those in memory or
// on swap that are neither a file's nor the kernel's page of zeros.
func (sp *space) scan(pagemap *procfs.Pagemap) (content, error) {
	if scanCategories() == 0 {
		return sp.scanEntries(pagemap)
	}
	var c content
	regions := make([]kern.PageRegion, scanRegions)
	for i := range sp.vmas {
		v := &sp.vmas[i]
		if v.kind == mmpb.Kind_KIND_UNSPECIFIED {
			continue
		}
		if err := sp.scanVMA(pagemap, v, regions, &c); err != nil {
			return content{}, fmt.Errorf("%s: %w", v.subject(), err)
		}
	}
	return c, nil
}

func (sp *space) scanVMA(pagemap *procfs.Pagemap, v *vma, regions []kern.PageRegion, c *content) error {
	known := scanCategories()
	if v.anonymous() {
		// No page of it is a file's. To find that out the kernel would look at
		// each page's descriptor, which takes five times as long as the rest.
		known &^= kern.PageFile
	}
	args := kern.PagemapScanArgs{Start: v.Start, End: v.End,
		Any: (kern.PagePresent | kern.PageSwapped | kern.PageGuard) & known, Return: known}
	for args.Start < args.End {
		n, end, err := kern.PagemapScan(pagemap.File(), args, regions)
		if err != nil {
			return fmt.Errorf("scan pagemap: %w", err)
		}
		for _, r := range regions[:n] {
			part := run{r.Start, r.End}
			switch {
			case r.Categories&kern.PageGuard != 0:
				c.guards = appendRun(c.guards, part)
			case v.stored() && r.Categories&(kern.PageFile|kern.PagePFNZero) == 0:
				c.pages = appendRun(c.pages, part)
			}
		}
		if end <= args.Start {
			return errors.New("scan of pagemap does not advance")
		}
		args.Start = end
	}
	return nil
}

// pagemapChunk is how many entries of pagemap are read at once.
const pagemapChunk = 64 << 10

// scanEntries is scan for kernels without PAGEMAP_SCAN. Mappings of which
// nothing is in memory or on swap are left out: they may be very large.
func (sp *space) scanEntries(pagemap *procfs.Pagemap) (content, error) {
	var c content
	entries := make([]procfs.Page, pagemapChunk)
	var scratch []byte
	for i := range sp.vmas {
		v := &sp.vmas[i]
		if !v.stored() || v.Rss+v.Swap == 0 {
			continue
		}
		for at := v.Start; at < v.End; {
			part := entries[:min(uint64(len(entries)), (v.End-at)/pageSize)]
			var err error
			if scratch, err = pagemap.Read(at, part, scratch); err != nil {
				return content{}, err
			}
			for _, e := range part {
				page := run{at, at + pageSize}
				switch {
				case e.Guard():
					c.guards = appendRun(c.guards, page)
				case (e.Present() || e.Swapped()) && !e.File():
					c.pages = appendRun(c.pages, page)
				}
				at += pageSize
			}
		}
	}
	return c, nil
}

// errShortRead means that memory could not be read to the end.
var errShortRead = fmt.Errorf("memory ends early: %w", unix.EFAULT)
