package arch

import (
	"bytes"
	"encoding/binary"
	"slices"
)

var (
	syscallInsn = []byte{0x01, 0x00, 0x00, 0xd4} // svc #0
	// sigreturnCode is "mov x8, #139; svc #0", as in every vdso.
	sigreturnCode = []byte{0x68, 0x11, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4}
)

const (
	insnNop  = 0xd503201f
	insnRet  = 0xd65f03c0
	regSPNum = 31
	regLR    = 30
)

// SigreturnCode returns code that calls rt_sigreturn.
func SigreturnCode() []byte { return slices.Clone(sigreturnCode) }

// FindSigreturn returns the offset of code that calls rt_sigreturn, -1 if there
// is none. The vdso has it.
func FindSigreturn(text []byte) int {
	for off := 0; ; off++ {
		i := bytes.Index(text[off:], sigreturnCode)
		if i < 0 {
			return -1
		}
		if off += i; off%4 == 0 {
			return off
		}
	}
}

// Gadgets returns the system call instructions of a vdso image that are
// followed by straight code up to a return that accesses no memory but the
// stack. Ret is where the stack pointer is after the return; the return address
// is in x30 or in one of the words below.
func Gadgets(vdso []byte) []Gadget {
	var found []Gadget
	for off := 0; off+8 <= len(vdso); off += 4 {
		if binary.LittleEndian.Uint32(vdso[off:]) != insnSyscall {
			continue
		}
		if ret, ok := epilogue(vdso[off+4:]); ok {
			found = append(found, Gadget{Off: uint64(off), Ret: ret})
		}
	}
	return found
}

// maxEpilogueInsns bounds how far the code behind a system call is followed.
const maxEpilogueInsns = 32

func epilogue(code []byte) (sp int64, ok bool) {
	var loaded int64 // end of what is loaded from the stack
	for range maxEpilogueInsns {
		if len(code) < 4 || sp > maxEpilogue || sp%16 != 0 {
			return 0, false
		}
		insn := binary.LittleEndian.Uint32(code)
		code = code[4:]
		switch {
		case insn == insnRet:
			return sp, loaded <= sp
		case insn == insnNop:
		case insn&0x7fe0ffe0 == 0x2a0003e0 && insn&31 != regLR: // mov reg, reg
		case insn&0xffc00000 == 0xa8c00000 && insn>>5&31 == regSPNum: // ldp a, b, [sp], #imm
			imm := int64(int32(insn<<10)>>25) * 8
			if imm < 16 {
				return 0, false
			}
			sp += imm
		case insn&0xffc00000 == 0xa9400000 && insn>>5&31 == regSPNum: // ldp a, b, [sp, #imm]
			imm := int64(int32(insn<<10)>>25) * 8
			if imm < 0 {
				return 0, false
			}
			loaded = max(loaded, sp+imm+16)
		case insn&0xffc003ff == 0x910003ff: // add sp, sp, #imm
			sp += int64(insn >> 10 & 0xfff)
		default:
			return 0, false
		}
	}
	return 0, false
}
