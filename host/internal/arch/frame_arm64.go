package arch

import (
	"encoding/binary"
	"fmt"
)

// struct rt_sigframe as rt_sigreturn reads it (arch/arm64/kernel/signal.c,
// uapi/asm/ucontext.h and sigcontext.h). The stack pointer is at its start, a
// multiple of 16.
//
//	  0 siginfo        not read
//	128 uc_flags   136 uc_link
//	144 uc_stack       ss_sp, ss_flags (i32), ss_size
//	168 uc_sigmask     with room for 1024 signals
//	304 fault_address
//	312 x0-x30, sp, pc, pstate
//	592 records: magic, size, content; a record of zeros at the end
const (
	frameSSFlags = 152
	frameSigmask = 168
	frameRegs    = 312
	frameRecords = 592

	// ssInvalid is no mode of sigaltstack: the kernel refuses it, ignores the
	// error (restore_altstack) and leaves the alternate stack as it is.
	ssInvalid = 0x40

	fpsimdMagic  = 0x46508001
	fpsimdRecord = 8 + 8 + 512
	sveMagic     = 0x53564501
	sveRecord    = 16 // header of a struct sve_context
	endRecord    = 16
	frameAlign   = 16
)

// frameSize is the room that putFrame needs at any address.
func frameSize(xstate int) int {
	return frameAlign + frameRecords + fpsimdRecord + sveRecord + alignUp(xstate, frameAlign) + endRecord
}

// putFrame writes a signal frame to dst, which lies at addr, and returns the
// stack pointer with which rt_sigreturn finds it. The first argument of the
// kernel's frame on other architectures, the return address, does not exist.
func putFrame(dst []byte, addr, _ uint64, regs Regs, xstate []byte, mask uint64) (uint64, error) {
	if err := CheckXState(xstate); err != nil {
		return 0, fmt.Errorf("signal frame: %w", err)
	}
	sp := alignUp(addr, frameAlign)
	if len(dst) < frameSize(len(xstate)) {
		return 0, fmt.Errorf("signal frame: %d bytes are too few", len(dst))
	}
	clear(dst)
	dst = dst[sp-addr:]
	le := binary.LittleEndian
	le.PutUint32(dst[frameSSFlags:], ssInvalid)
	le.PutUint64(dst[frameSigmask:], mask)
	copy(dst[frameRegs:], regs.Bytes()[:userRegsSize])
	rec := dst[frameRecords:]
	le.PutUint32(rec, fpsimdMagic)
	le.PutUint32(rec[4:], fpsimdRecord)
	copy(rec[8:], xstate[offFPSR:offFPSR+8])
	copy(rec[16:], xstate[:offFPSR])
	if len(xstate) > fpsimdSize {
		putSVE(rec[fpsimdRecord:], xstate)
	}
	return sp, nil
}

// putSVE writes a struct sve_context: its registers are laid out as those of
// ptrace.
//
//	0 u32 magic   4 u32 size   8 u16 vl   10 u16 flags   12 zero   16 registers
func putSVE(rec, xstate []byte) {
	le := binary.LittleEndian
	vl := sveVL(xstate)
	le.PutUint32(rec, sveMagic)
	le.PutUint32(rec[4:], uint32(sveRecord+alignUp(sveRegs(vl), frameAlign)))
	le.PutUint16(rec[8:], uint16(vl))
	copy(rec[sveRecord:], xstate[fpsimdSize+sveHeader:][:sveRegs(vl)])
}
