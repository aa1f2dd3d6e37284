package resource

import (
	"fmt"
	"slices"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

func (p *process) readVMAs(tid int) error {
	maps, err := procfs.Maps(tid)
	if err != nil {
		return err
	}
	p.vmas = make([]sdk.VMA, len(maps))
	for i, m := range maps {
		p.vmas[i] = sdk.VMA{
			AddrRange: sdk.AddrRange{Start: m.Start, End: m.End},
			Perm:      m.Perm, Offset: m.Offset, Dev: m.Dev, Ino: m.Ino, Path: m.Path,
			Rdev: mappedDevice(tid, &maps[i]),
		}
	}
	return nil
}

// The search for a free range stays clear of low addresses, where programs
// with fixed load addresses live, and of the top, where the kernel puts stack,
// vdso and mappings.
const (
	freeFrom = 0x10_0000_0000
	freeTo   = 0x7000_0000_0000
)

// freeRange finds FreeLen bytes of address space that no process uses.
func freeRange(procs []*process) (sdk.AddrRange, error) {
	var used []sdk.AddrRange
	for _, p := range procs {
		for i := range p.vmas {
			used = append(used, p.vmas[i].AddrRange)
		}
	}
	slices.SortFunc(used, func(a, b sdk.AddrRange) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	at := uint64(freeFrom)
	for _, u := range used {
		if u.Start >= at+FreeLen {
			break
		}
		at = max(at, u.End)
	}
	if at+FreeLen > freeTo {
		return sdk.AddrRange{}, fmt.Errorf("find %d free bytes of address space: %w", FreeLen, sdk.ErrUnsupported)
	}
	return sdk.AddrRange{Start: at, End: at + FreeLen}, nil
}
