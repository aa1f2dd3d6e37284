package arch

import "encoding/binary"

// Where the seed lies: below every address that a program is linked to.
const (
	seedAddr  = 0x10000
	elfHeader = 64
	elfPhdr   = 56
)

// Seed returns a tiny static program that sleeps for ever, and the address of a
// system call instruction in it. A restore starts it and lets it clone the
// tasks: nothing of it remains in them.
//
// At initAddr begins the program of the first process of a PID namespace: with
// a struct pollfd at the stack pointer, it waits until that file is readable and
// exits. It needs no more: its children are reaped by the kernel when SIGCHLD
// is ignored, and its exit ends the namespace (pid_namespaces(7)).
func Seed() (elf []byte, syscallAddr, initAddr uint64) {
	const code = elfHeader + elfPhdr
	all := append(append([]byte(nil), seedCode...), initCode...)
	b := make([]byte, code, code+len(all))
	le := binary.LittleEndian
	copy(b, "\x7fELF\x02\x01\x01")    // 64 bits, little endian
	le.PutUint16(b[16:], 2)           // ET_EXEC
	le.PutUint16(b[18:], seedMachine) // e_machine
	le.PutUint32(b[20:], 1)           // e_version
	le.PutUint64(b[24:], seedAddr+code)
	le.PutUint64(b[32:], elfHeader) // e_phoff
	le.PutUint16(b[52:], elfHeader)
	le.PutUint16(b[54:], elfPhdr)
	le.PutUint16(b[56:], 1) // e_phnum
	ph := b[elfHeader:]
	size := uint64(code + len(all))
	le.PutUint32(ph, 1)     // PT_LOAD
	le.PutUint32(ph[4:], 5) // PF_R | PF_X
	le.PutUint64(ph[16:], seedAddr)
	le.PutUint64(ph[24:], seedAddr)
	le.PutUint64(ph[32:], size)
	le.PutUint64(ph[40:], size)
	le.PutUint64(ph[48:], seedAddr) // p_align: fits every page size
	return append(b, all...), seedAddr + code + seedSyscall, seedAddr + code + uint64(len(seedCode))
}
