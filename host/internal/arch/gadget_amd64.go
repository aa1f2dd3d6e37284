package arch

import (
	"bytes"
	"slices"
)

var (
	syscallInsn = []byte{0x0f, 0x05}
	// sigreturnCode is "mov $15, %rax; syscall", as in every libc.
	sigreturnCode  = []byte{0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05}
	sigreturnShort = []byte{0xb8, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05}
)

// SigreturnCode returns code that calls rt_sigreturn.
func SigreturnCode() []byte { return slices.Clone(sigreturnCode) }

// FindSigreturn returns the offset of code that calls rt_sigreturn, -1 if there
// is none. Programs have it where the C library installs it as sa_restorer.
func FindSigreturn(text []byte) int {
	if i := bytes.Index(text, sigreturnCode); i >= 0 {
		return i
	}
	return bytes.Index(text, sigreturnShort)
}

// Gadgets returns the system call instructions of a vdso image that are
// followed by straight code up to a return that accesses no memory but the
// stack: the epilogues of the fallbacks to a real system call.
func Gadgets(vdso []byte) []Gadget {
	var found []Gadget
	for off := 0; ; off += len(syscallInsn) {
		i := bytes.Index(vdso[off:], syscallInsn)
		if i < 0 {
			return found
		}
		off += i
		if g, ok := epilogue(vdso[off+len(syscallInsn):]); ok {
			g.Off = uint64(off)
			found = append(found, g)
		}
	}
}

// maxEpilogueInsns bounds how far the code behind a system call is followed.
const maxEpilogueInsns = 64

// epilogue follows code from behind a system call to its return. It starts with
// rbp equal to rsp, as PlaceCall sets it.
func epilogue(code []byte) (Gadget, bool) {
	s := stackTrace{bpKnown: true}
	for range maxEpilogueInsns {
		n := s.step(code)
		if n == 0 || s.sp < -maxEpilogue || s.sp > maxEpilogue {
			return Gadget{}, false
		}
		if s.returned {
			return Gadget{Ret: s.sp, Low: s.low}, true
		}
		code = code[n:]
	}
	return Gadget{}, false
}

// stackTrace is what is known about the stack: distances from the stack
// pointer at the system call.
type stackTrace struct {
	sp, bp   int64
	low      int64
	bpKnown  bool
	returned bool
}

const (
	regSP = 4
	regBP = 5
)

// step decodes one instruction and returns its length, 0 if it is not one of
// those that an epilogue consists of.
func (s *stackTrace) step(code []byte) int {
	rex, prefix := byte(0), 0
	if len(code) > 0 && code[0]&0xf0 == 0x40 {
		rex, prefix = code[0], 1
		code = code[1:]
	}
	if len(code) == 0 {
		return 0
	}
	var n int
	switch op := code[0]; {
	case op == 0xc3 && rex == 0: // ret
		s.read()
		s.returned = true
		return 1
	case op == 0xc9 && rex == 0: // leave
		n = s.leave()
	case op == 0x90 && rex == 0: // nop
		n = 1
	case op >= 0x58 && op <= 0x5f: // pop reg
		n = s.pop(op&7, rex)
	default:
		n = s.modRM(code, rex)
	}
	if n == 0 {
		return 0
	}
	return prefix + n
}

func (s *stackTrace) read() { s.low = min(s.low, s.sp) }

func (s *stackTrace) leave() int {
	if !s.bpKnown {
		return 0
	}
	s.sp = s.bp
	return s.pop(regBP, 0)
}

func (s *stackTrace) pop(reg, rex byte) int {
	reg |= rex & 1 << 3
	if reg == regSP {
		return 0
	}
	s.read()
	s.sp += 8
	s.written(reg)
	return 1
}

func (s *stackTrace) written(reg byte) {
	if reg == regBP {
		s.bpKnown = false
	}
}

// modRM handles instructions with a ModRM byte: register to register, additions
// to rsp, and lea of rsp from rbp or rsp.
func (s *stackTrace) modRM(code []byte, rex byte) int {
	if len(code) < 2 {
		return 0
	}
	op, modrm := code[0], code[1]
	mod, reg, rm := modrm>>6, modrm>>3&7|rex&4<<1, modrm&7|rex&1<<3
	if op == 0x8d {
		return s.lea(code, rex, mod, reg, rm)
	}
	if mod != 3 {
		return 0
	}
	switch op {
	case 0x31, 0x29, 0x21, 0x09, 0x01: // xor sub and or add reg, reg
		return s.arithmetic(rm)
	case 0x33, 0x2b, 0x23, 0x0b, 0x03: // the same, other direction
		return s.arithmetic(reg)
	case 0x85, 0x39, 0x3b: // test, cmp
		return 2
	case 0x89: // mov rm, reg
		return s.move(rm, reg, rex)
	case 0x8b: // mov reg, rm
		return s.move(reg, rm, rex)
	case 0x83, 0x81:
		return s.immediate(code, rex, modrm>>3&7, rm)
	}
	return 0
}

func (s *stackTrace) arithmetic(dst byte) int {
	if dst == regSP {
		return 0
	}
	s.written(dst)
	return 2
}

func (s *stackTrace) move(dst, src, rex byte) int {
	wide := rex&8 != 0
	switch {
	case dst == regSP && src == regBP && wide && s.bpKnown:
		s.sp = s.bp
	case dst == regSP:
		return 0
	case dst == regBP && src == regSP && wide:
		s.bp, s.bpKnown = s.sp, true
	default:
		s.written(dst)
	}
	return 2
}

func (s *stackTrace) immediate(code []byte, rex, kind, rm byte) int {
	n := 3
	var v int64
	if code[0] == 0x81 {
		n = 6
	}
	if len(code) < n {
		return 0
	}
	if n == 3 {
		v = int64(int8(code[2]))
	} else {
		v = int64(int32(uint32(code[2]) | uint32(code[3])<<8 | uint32(code[4])<<16 | uint32(code[5])<<24))
	}
	switch {
	case kind == 7: // cmp
		return n
	case rm != regSP:
		s.written(rm)
		return n
	case rex&8 == 0:
		return 0
	case kind == 0: // add
		s.sp += v
	case kind == 5: // sub
		s.sp -= v
	default:
		return 0
	}
	return n
}

// lea follows lea disp8(%rbp), %rsp and lea disp8(%rsp), %rsp.
func (s *stackTrace) lea(code []byte, rex, mod, reg, rm byte) int {
	if mod != 1 || reg != regSP || rex&8 == 0 {
		return 0
	}
	switch {
	case rm == regBP && len(code) >= 3 && s.bpKnown:
		s.sp = s.bp + int64(int8(code[2]))
		return 3
	case rm == regSP && len(code) >= 4 && code[2] == 0x24:
		s.sp += int64(int8(code[3]))
		return 4
	}
	return 0
}
