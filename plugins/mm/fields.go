package mm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// prctl(2) operations that golang.org/x/sys/unix lacks.
const (
	prGetMDWE        = 66
	prSetMemoryMerge = 67
	prGetMemoryMerge = 68
)

// inquiry is what only the process itself can tell about its memory.
type inquiry struct {
	brk        uint64
	mdwe       uint64 // PR_GET_MDWE
	merge      bool   // PR_GET_MEMORY_MERGE
	lockFuture uint32 // MCL_FUTURE and MCL_ONFAULT, or 0
}

// inquiryTape asks. It maps a page to see whether new mappings get locked
// (msync with MS_INVALIDATE says EBUSY) and filled, and unmaps it again.
type inquiryTape struct {
	tape.Tape
	brk, mdwe, merge, page, locked, core tape.Result
	vec                                  tape.Ref
}

func newInquiry() *inquiryTape {
	t := &inquiryTape{}
	size := tape.Imm(pageSize)
	t.brk = t.Call(unix.SYS_BRK, tape.Imm(0))
	t.mdwe = t.Try(unix.SYS_PRCTL, tape.Imm(prGetMDWE))
	t.merge = t.Try(unix.SYS_PRCTL, tape.Imm(prGetMemoryMerge))
	t.vec = t.Buffer(8)
	t.page = t.Try(unix.SYS_MMAP, tape.Imm(0), size, tape.Imm(unix.PROT_READ|unix.PROT_WRITE),
		tape.Imm(unix.MAP_PRIVATE|unix.MAP_ANONYMOUS), tape.Imm(-1), tape.Imm(0))
	t.locked = t.Try(unix.SYS_MSYNC, t.page.Arg(), size, tape.Imm(unix.MS_INVALIDATE))
	t.core = t.Try(unix.SYS_MINCORE, t.page.Arg(), size, t.vec.Arg())
	t.Try(unix.SYS_MUNMAP, t.page.Arg(), size)
	return t
}

// answer reads what the tape has found out.
func (t *inquiryTape) answer(o *tape.Outcome) (inquiry, error) {
	var q inquiry
	var err error
	if q.brk, err = o.Value(t.brk); err != nil {
		return q, fmt.Errorf("brk: %w", err)
	}
	q.mdwe, _ = o.Value(t.mdwe) // EINVAL before Linux 6.3: nobody can have set it
	merge, _ := o.Value(t.merge)
	q.merge = merge != 0
	if _, err := o.Value(t.page); err != nil {
		if errors.Is(err, unix.EAGAIN) { // more locked memory than RLIMIT_MEMLOCK
			q.lockFuture = unix.MCL_FUTURE
		}
		return q, nil
	}
	if _, err := o.Value(t.locked); errors.Is(err, unix.EBUSY) {
		q.lockFuture = unix.MCL_FUTURE
		if vec := o.Bytes(t.vec); len(vec) > 0 && vec[0]&1 == 0 {
			q.lockFuture |= unix.MCL_ONFAULT
		}
	}
	return q, nil
}

// inquire asks every process of the frozen tree.
func inquire(ctx context.Context, host sdk.Host, spaces []*space) error {
	if len(spaces) == 0 {
		return nil
	}
	t := newInquiry()
	runs := make([]tape.Run, len(spaces))
	for i, sp := range spaces {
		runs[i] = tape.Run{TID: sp.pid, Tape: &t.Tape}
	}
	outcomes, err := host.RunTapes(ctx, runs)
	if err != nil {
		return fmt.Errorf("ask tasks about their memory: %w", err)
	}
	if len(outcomes) != len(spaces) {
		return fmt.Errorf("ask tasks about their memory: %d answers for %d tapes: %w", len(outcomes), len(spaces), sdk.ErrCorrupt)
	}
	for i, sp := range spaces {
		if err := outcomes[i].Err; err != nil {
			return fmt.Errorf("ask task %d about its memory: %w", sp.task, err)
		}
		if sp.info, err = t.answer(&outcomes[i]); err != nil {
			return fmt.Errorf("ask task %d about its memory: %w", sp.task, err)
		}
	}
	return nil
}

// fields are the addresses that the kernel keeps for a process.
func (sp *space) fields() *mmpb.Fields {
	st := &sp.stat
	return &mmpb.Fields{
		StartCode: st.StartCode, EndCode: st.EndCode, StartData: st.StartData, EndData: st.EndData,
		StartBrk: st.StartBrk, Brk: sp.info.brk, StartStack: st.StartStack,
		ArgStart: st.ArgStart, ArgEnd: st.ArgEnd, EnvStart: st.EnvStart, EnvEnd: st.EnvEnd,
	}
}

// prctlMap encodes struct prctl_mm_map:
//
//	 0 start_code end_code start_data end_data start_brk brk start_stack
//	56 arg_start arg_end env_start env_end
//	88 pointer to the auxiliary vector   96 u32 its size   100 u32 exe_fd
func prctlMap(f *mmpb.Fields, auxv uint64, auxvSize int, exeFD int) []byte {
	b := make([]byte, 0, 104)
	for _, v := range []uint64{
		f.GetStartCode(), f.GetEndCode(), f.GetStartData(), f.GetEndData(), f.GetStartBrk(), f.GetBrk(), f.GetStartStack(),
		f.GetArgStart(), f.GetArgEnd(), f.GetEnvStart(), f.GetEnvEnd(), auxv,
	} {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(auxvSize))
	return binary.NativeEndian.AppendUint32(b, uint32(exeFD))
}

// setFields emits the calls that set the fields, the auxiliary vector and the
// executable. The structure holds a pointer and a descriptor, which a tape
// cannot know beforehand: the vector goes through a memfd to an address that
// is free (scratch), and the executable to a number that is free (freeFD).
func (b *builder) setFields(as *mmpb.AddressSpace) {
	exe, scratch, freeFD := b.img.files[as.Exe].Path, b.scratchAt, b.freeFD
	b.room(12, len(as.Auxv)+len(exe)+256)
	t := b.tape
	length := tape.Imm(roundUp(uint64(len(as.Auxv))))
	auxv := t.Bytes(as.Auxv)
	mem := t.Call(unix.SYS_MEMFD_CREATE, t.String("auxv").Arg(), tape.Imm(unix.MFD_CLOEXEC))
	t.Call(unix.SYS_WRITE, mem.Arg(), auxv.Arg(), tape.Imm(auxv.Len))
	t.Call(unix.SYS_MMAP, tape.Imm(scratch), length, tape.Imm(unix.PROT_READ),
		tape.Imm(unix.MAP_PRIVATE|unix.MAP_FIXED_NOREPLACE), mem.Arg(), tape.Imm(0))
	t.Call(unix.SYS_CLOSE, mem.Arg())

	var fd tape.Result
	if h, ok := b.held[as.Exe]; ok {
		fd = b.fetch(h.read)
	} else {
		fd = t.Call(unix.SYS_OPENAT, tape.Imm(unix.AT_FDCWD), t.String(exe).Arg(), tape.Imm(unix.O_RDONLY|unix.O_CLOEXEC))
	}
	t.Call(unix.SYS_DUP3, fd.Arg(), tape.Imm(freeFD), tape.Imm(unix.O_CLOEXEC))
	t.Call(unix.SYS_CLOSE, fd.Arg())
	m := t.Bytes(prctlMap(as.Fields, scratch, len(as.Auxv), freeFD))
	t.Call(unix.SYS_PRCTL, tape.Imm(unix.PR_SET_MM), tape.Imm(unix.PR_SET_MM_MAP), m.Arg(), tape.Imm(m.Len))
	t.Call(unix.SYS_CLOSE, tape.Imm(freeFD))
	t.Call(unix.SYS_MUNMAP, tape.Imm(scratch), length)
}

// setModes emits what applies to the mappings that are made later.
func (s *script) setModes(as *mmpb.AddressSpace) {
	s.room(2, 0)
	if as.MergeAny {
		s.tape.Try(unix.SYS_PRCTL, tape.Imm(prSetMemoryMerge), tape.Imm(1))
	}
	if as.LockFuture != 0 {
		s.tape.Call(unix.SYS_MLOCKALL, tape.Imm(as.LockFuture))
	}
}

func roundUp(n uint64) uint64 { return (n + pageSize - 1) &^ (pageSize - 1) }
