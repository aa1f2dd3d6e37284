//go:build !amd64

package mm

import (
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// mremap(2) flags.
const (
	mremapMayMove = 1
	mremapFixed   = 2
)

// keepVdso names the mappings of the seed that are needed to make the vdso:
// its own vdso, which is moved.
func keepVdso(seed []procfs.Mapping) []procfs.Mapping { return vdsoMappings(seed) }

// placeVdso emits the calls that move the seed's vdso to where the process had
// its own, by way of scratch, because the two places may overlap. The kernel
// notes the new place of the vdso itself. Without a vdso the seed's is unmapped.
func (s *script) placeVdso(v *mmpb.Vdso, seed []procfs.Mapping, scratch uint64) {
	s.room(2*len(seed)+1, 0)
	at := scratch
	for _, m := range seed {
		if v == nil {
			s.tape.Call(unix.SYS_MUNMAP, tape.Imm(m.Start), tape.Imm(m.Len()))
			continue
		}
		s.tape.Call(unix.SYS_MREMAP, tape.Imm(m.Start), tape.Imm(m.Len()), tape.Imm(m.Len()),
			tape.Imm(mremapMayMove|mremapFixed), tape.Imm(at))
		at += m.Len()
	}
	if v == nil {
		return
	}
	from, to := scratch, v.Start
	for _, p := range v.Parts {
		s.tape.Call(unix.SYS_MREMAP, tape.Imm(from), tape.Imm(p.Size), tape.Imm(p.Size),
			tape.Imm(mremapMayMove|mremapFixed), tape.Imm(to))
		from, to = from+p.Size, to+p.Size
	}
}
