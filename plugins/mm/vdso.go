package mm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// maxVdso bounds what is read of a vdso.
const maxVdso = 1 << 20

// errVdsoApart: the parts of the vdso have been moved apart by mremap(2).
var errVdsoApart = errors.New("the parts of the vdso are not side by side")

// vdsoOf describes the kernel's mappings among some; nil if there are none.
func vdsoOf(pid int, maps []procfs.Mapping) (*mmpb.Vdso, error) {
	var v *mmpb.Vdso
	var end uint64
	for i := range maps {
		m := &maps[i]
		if v == nil {
			v = &mmpb.Vdso{Start: m.Start}
		} else if m.Start != end {
			return nil, errVdsoApart
		}
		end = m.End
		v.Parts = append(v.Parts, &mmpb.VdsoPart{Name: m.Path, Size: m.Len()})
		if m.Path != nameVdso {
			continue
		}
		code := make([]byte, min(m.Len(), maxVdso))
		if err := readMemory(pid, m.Start, code); err != nil {
			return nil, fmt.Errorf("read vdso: %w", err)
		}
		v.BuildId = readELF(bytes.NewReader(code)).buildID
	}
	return v, nil
}

// readMemory copies readable memory of a process.
func readMemory(pid int, addr uint64, b []byte) error {
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
	if err == nil && n < len(b) {
		err = unix.EFAULT
	}
	return err
}

// kernelVdso is the vdso that this kernel gives to 64-bit programs.
var kernelVdso = sync.OnceValues(func() (*mmpb.Vdso, error) {
	maps, err := procfs.Maps(os.Getpid())
	if err != nil {
		return nil, err
	}
	return vdsoOf(os.Getpid(), vdsoMappings(maps))
})

// vdsoMappings keeps the kernel's own mappings.
func vdsoMappings(maps []procfs.Mapping) []procfs.Mapping {
	var out []procfs.Mapping
	for _, m := range maps {
		if isVdso(m.Path) {
			out = append(out, m)
		}
	}
	return out
}

// vdso describes the kernel's mappings of a process.
func (sp *space) vdso() (*mmpb.Vdso, error) {
	var maps []procfs.Mapping
	for i := range sp.vmas {
		if sp.vmas[i].vdso {
			maps = append(maps, sp.vmas[i].Mapping)
		}
	}
	return vdsoOf(sp.pid, maps)
}

// sameVdso tells whether this kernel can give a process the vdso that it had:
// programs keep addresses of functions in it.
func sameVdso(v *mmpb.Vdso) error {
	if v == nil {
		return nil
	}
	own, err := kernelVdso()
	if err != nil {
		return err
	}
	if own == nil || len(own.Parts) != len(v.Parts) || !bytes.Equal(own.BuildId, v.BuildId) {
		return fmt.Errorf("this kernel has another vdso: %w", sdk.ErrUnsupported)
	}
	for i, p := range v.Parts {
		if o := own.Parts[i]; o.Name != p.Name || o.Size != p.Size {
			return fmt.Errorf("%s of this kernel has %d bytes, not %d: %w", p.Name, o.Size, p.Size, sdk.ErrUnsupported)
		}
	}
	return nil
}

// vdsoSize is the length of all parts together.
func vdsoSize(v *mmpb.Vdso) uint64 {
	var n uint64
	for _, p := range v.GetParts() {
		n += p.Size
	}
	return n
}
