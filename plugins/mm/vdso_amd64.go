package mm

import (
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// archMapVdso64 is ARCH_MAP_VDSO_64 of arch_prctl(2): it maps the vdso and its
// data at an address, in a process that has none (Linux 4.8 with
// CONFIG_CHECKPOINT_RESTORE).
const archMapVdso64 = 0x2003

// keepVdso names the mappings of the seed that are needed to make the vdso:
// none, the kernel maps a new one.
func keepVdso([]procfs.Mapping) []procfs.Mapping { return nil }

// placeVdso emits the calls that put the vdso where it was.
func (s *script) placeVdso(v *mmpb.Vdso, _ []procfs.Mapping, _ uint64) {
	if v == nil {
		return
	}
	s.room(1, 0)
	s.tape.Call(unix.SYS_ARCH_PRCTL, tape.Imm(archMapVdso64), tape.Imm(v.Start))
}
