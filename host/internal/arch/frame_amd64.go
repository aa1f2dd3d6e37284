package arch

import (
	"encoding/binary"
	"fmt"
)

// struct rt_sigframe as rt_sigreturn reads it (arch/x86/include/asm/sigframe.h,
// uapi/asm/sigcontext.h). siginfo, which follows, is not read.
//
//	  0 pretcode       return address; the stack pointer is behind it
//	  8 uc_flags
//	 16 uc_link
//	 24 uc_stack       ss_sp, ss_flags (i32), ss_size
//	 48 uc_mcontext    r8-r15 di si bp bx dx ax cx sp ip flags,
//	                   u16 cs gs fs ss, err trapno oldmask cr2, fpstate
//	304 uc_sigmask
//	312 end
const (
	frameUC       = 8
	frameSSFlags  = 32
	frameMcontext = 48
	frameCS       = frameMcontext + 18*8
	frameFPState  = frameMcontext + 23*8
	frameSigmask  = 304
	frameEnd      = 312

	ucFlags = 7 // UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
	// ssInvalid is no mode of sigaltstack: the kernel refuses it, ignores the
	// error (restore_altstack) and leaves the alternate stack as it is.
	ssInvalid = 0x40

	magic1     = 0x46505853
	magic2     = 0x46505845
	magic2Size = 4
	xsaveAlign = 64
)

// frameSize is the room that putFrame needs at an address that is a multiple
// of 8.
func frameSize(xstate int) int { return frameEnd + xsaveAlign + xstate + magic2Size }

// putFrame writes a signal frame to dst, which lies at addr, and returns the
// stack pointer with which rt_sigreturn finds it. regs must not want a restart.
func putFrame(dst []byte, addr, pretcode uint64, regs Regs, xstate []byte, mask uint64) (uint64, error) {
	if err := CheckXState(xstate); err != nil {
		return 0, fmt.Errorf("signal frame: %w", err)
	}
	xaddr := alignUp(addr+frameEnd, xsaveAlign)
	xoff := int(xaddr - addr)
	if len(dst) < xoff+len(xstate)+magic2Size {
		return 0, fmt.Errorf("signal frame: %d bytes are too few", len(dst))
	}
	le := binary.LittleEndian
	clear(dst[:xoff])
	le.PutUint64(dst, pretcode)
	le.PutUint64(dst[frameUC:], ucFlags)
	le.PutUint32(dst[frameSSFlags:], ssInvalid)
	for i, v := range []uint64{
		regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13, regs.R14, regs.R15,
		regs.Rdi, regs.Rsi, regs.Rbp, regs.Rbx, regs.Rdx, regs.Rax, regs.Rcx, regs.Rsp, regs.Rip, regs.Eflags,
	} {
		le.PutUint64(dst[frameMcontext+8*i:], v)
	}
	for i, v := range []uint64{regs.Cs, regs.Gs, regs.Fs, regs.Ss} {
		le.PutUint16(dst[frameCS+2*i:], uint16(v))
	}
	le.PutUint64(dst[frameFPState:], xaddr)
	le.PutUint64(dst[frameSigmask:], mask)
	putXsave(dst[xoff:], xstate)
	return addr + frameUC, nil
}

// putXsave writes extended state as a signal frame holds it: struct _fpx_sw_bytes
// in the software bytes of the legacy area, a second magic behind the end.
//
//	464 u32 magic1   468 u32 size with magic2   472 u64 components
//	480 u32 size     484 zero
//
// The size is that of the components in use, not of the note: the kernel loads
// the legacy area alone if the size is above what the task may have, which is
// less than the note has room for where a component (AMX tiles) needs permission.
func putXsave(dst, xstate []byte) {
	le := binary.LittleEndian
	size := xstateUsed(xstate)
	copy(dst, xstate[:size])
	clear(dst[offSoftware:legacySize])
	le.PutUint32(dst[offSoftware:], magic1)
	le.PutUint32(dst[offSoftware+4:], uint32(size+magic2Size))
	le.PutUint64(dst[offSoftware+8:], le.Uint64(xstate[offXstateBV:])|xfeatureLegacy)
	le.PutUint32(dst[offSoftware+16:], uint32(size))
	le.PutUint32(dst[size:], magic2)
}
