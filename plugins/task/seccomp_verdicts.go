package task

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data, which a filter looks at:
//
//	0 nr (4)   4 arch (4)   8 instruction pointer   16 six arguments
const (
	dataNr   = 0
	dataArch = 4
	dataSize = 64
)

// word is a value of a filter's machine, if it is known.
type word struct {
	known bool
	v     uint32
}

// filterState is what is known when an instruction is reached.
type filterState struct {
	reached bool
	a, x    word
	mem     [unix.BPF_MEMWORDS]word
}

// verdicts are the values that a filter may return.
type verdicts struct {
	set map[uint32]bool
	// any is set if a value is computed in a way that cannot be followed.
	any bool
}

// filterVerdicts finds what a filter can return about system calls of which
// the words at some offsets of struct seccomp_data are known. Programs only
// jump forward (linux/filter.h), so one pass sees every instruction with all
// that leads to it; where ways with different values meet, the value is not
// known. What comes out may be more than what can happen, never less.
func filterVerdicts(program []byte, known map[uint32]uint32) verdicts {
	out := verdicts{set: map[uint32]bool{}}
	n := len(program) / sockFilterSize
	states := make([]filterState, n)
	flow := func(to int, s *filterState) {
		if to >= n { // the kernel refuses such a program
			out.any = true
			return
		}
		states[to].join(s)
	}
	if n == 0 {
		return out
	}
	zero := filterState{reached: true, a: word{known: true}, x: word{known: true}}
	states[0] = zero
	for pc := range n {
		if s := states[pc]; s.reached {
			step(program[pc*sockFilterSize:], pc, &s, known, flow, &out)
		}
	}
	return out
}

// join adds a way to reach an instruction.
func (s *filterState) join(from *filterState) {
	if !s.reached {
		*s = *from
		return
	}
	meet := func(a *word, b word) {
		if *a != b {
			*a = word{}
		}
	}
	meet(&s.a, from.a)
	meet(&s.x, from.x)
	for i := range s.mem {
		meet(&s.mem[i], from.mem[i])
	}
}

// step follows one instruction, struct sock_filter:
//
//	0 code (2)   2 jump if true (1)   3 jump if false (1)   4 constant (4)
func step(insn []byte, pc int, s *filterState, known map[uint32]uint32, flow func(int, *filterState), out *verdicts) {
	code, k := binary.LittleEndian.Uint16(insn), binary.LittleEndian.Uint32(insn[4:])
	constant := word{true, k}
	operand := constant
	if code&unix.BPF_X != 0 {
		operand = s.x
	}
	slot := &s.mem[k%unix.BPF_MEMWORDS]
	switch code & 7 {
	case unix.BPF_RET:
		value := constant
		if code&0x18 == unix.BPF_A {
			value = s.a
		}
		out.set[value.v] = out.set[value.v] || value.known
		out.any = out.any || !value.known
		return
	case unix.BPF_JMP:
		always, never := compare(code, s.a, operand)
		if code&0xf0 == unix.BPF_JA {
			flow(pc+1+int(min(k, unix.BPF_MAXINSNS)), s)
			return
		}
		if !never {
			flow(pc+1+int(insn[2]), s)
		}
		if !always {
			flow(pc+1+int(insn[3]), s)
		}
		return
	case unix.BPF_LD:
		s.a = fetch(code, constant, *slot, known)
	case unix.BPF_LDX:
		s.x = fetch(code, constant, *slot, known)
	case unix.BPF_ST:
		*slot = s.a
	case unix.BPF_STX:
		*slot = s.x
	case unix.BPF_ALU:
		s.a = compute(code, s.a, operand)
	case unix.BPF_MISC:
		if code&0xf8 == unix.BPF_TXA {
			s.a = s.x
		} else {
			s.x = s.a
		}
	}
	flow(pc+1, s)
}

// fetch is the value that a load instruction gets.
func fetch(code uint16, constant, slot word, known map[uint32]uint32) word {
	switch code & 0xe0 {
	case unix.BPF_IMM:
		return constant
	case unix.BPF_MEM:
		return slot
	case unix.BPF_LEN:
		return word{true, dataSize}
	case unix.BPF_ABS:
		v, ok := known[constant.v]
		return word{ok, v}
	}
	return word{}
}

// compare tells whether a conditional jump is always or never taken.
func compare(code uint16, a, b word) (always, never bool) {
	if !a.known || !b.known {
		return false, false
	}
	var jumps bool
	switch code & 0xf0 {
	case unix.BPF_JEQ:
		jumps = a.v == b.v
	case unix.BPF_JGT:
		jumps = a.v > b.v
	case unix.BPF_JGE:
		jumps = a.v >= b.v
	case unix.BPF_JSET:
		jumps = a.v&b.v != 0
	default:
		return false, false
	}
	return jumps, !jumps
}

// compute is the result of an arithmetic instruction. What no compiler of
// filters makes of known values is not followed.
func compute(code uint16, a, b word) word {
	if !a.known || !b.known {
		return word{}
	}
	switch code & 0xf0 {
	case unix.BPF_AND:
		return word{true, a.v & b.v}
	case unix.BPF_OR:
		return word{true, a.v | b.v}
	case unix.BPF_ADD:
		return word{true, a.v + b.v}
	case unix.BPF_SUB:
		return word{true, a.v - b.v}
	}
	return word{}
}
