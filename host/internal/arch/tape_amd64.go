package arch

import "slices"

// TapeCode returns the interpreter: position independent code that runs the
// slice in r15. It uses neither the stack nor x87 or SSE registers.
//
//	r15 slice   r14 entry   r13 entries left   r12 first entry
//	rbp argument   rbx mask of arguments that come from results
func TapeCode() []byte { return slices.Clone(tapeCode) }

var tapeCode = []byte{
	0x4d, 0x8b, 0x77, 0x10, //                         00 mov  r14, [r15+16]
	0x4d, 0x8b, 0x6f, 0x08, //                         04 mov  r13, [r15+8]
	0x4d, 0x89, 0xf4, //                               08 mov  r12, r14
	// next entry
	0x4d, 0x85, 0xed, //                               0b test r13, r13
	0x74, 0x67, //                                     0e jz   77 done
	0x41, 0x0f, 0xb7, 0x5e, 0x06, //                   10 movzx ebx, word [r14+6]
	0x49, 0x8d, 0x6e, 0x08, //                         15 lea  rbp, [r14+8]
	// arguments that are results
	0x85, 0xdb, //                                     19 test ebx, ebx
	0x74, 0x1e, //                                     1b jz   3b call
	0xf6, 0xc3, 0x01, //                               1d test bl, 1
	0x74, 0x11, //                                     20 jz   33
	0x48, 0x8b, 0x45, 0x00, //                         22 mov  rax, [rbp]
	0x48, 0xc1, 0xe0, 0x06, //                         26 shl  rax, 6
	0x49, 0x8b, 0x44, 0x04, 0x38, //                   2a mov  rax, [r12+rax+56]
	0x48, 0x89, 0x45, 0x00, //                         2f mov  [rbp], rax
	0x48, 0x83, 0xc5, 0x08, //                         33 add  rbp, 8
	0xd1, 0xeb, //                                     37 shr  ebx, 1
	0xeb, 0xde, //                                     39 jmp  19
	// call
	0x41, 0x8b, 0x06, //                               3b mov  eax, [r14]
	0x49, 0x8b, 0x7e, 0x08, //                         3e mov  rdi, [r14+8]
	0x49, 0x8b, 0x76, 0x10, //                         42 mov  rsi, [r14+16]
	0x49, 0x8b, 0x56, 0x18, //                         46 mov  rdx, [r14+24]
	0x4d, 0x8b, 0x56, 0x20, //                         4a mov  r10, [r14+32]
	0x4d, 0x8b, 0x46, 0x28, //                         4e mov  r8, [r14+40]
	0x4d, 0x8b, 0x4e, 0x30, //                         52 mov  r9, [r14+48]
	0x0f, 0x05, //                                     56 syscall
	0x49, 0x89, 0x46, 0x38, //                         58 mov  [r14+56], rax
	0x49, 0xff, 0x07, //                               5c inc  qword [r15]
	0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, //             5f cmp  rax, -4095
	0x72, 0x07, //                                     65 jb   6e
	0x41, 0xf6, 0x46, 0x04, 0x01, //                   67 test byte [r14+4], 1
	0x74, 0x09, //                                     6c jz   77 done
	0x49, 0x83, 0xc6, 0x40, //                         6e add  r14, 64
	0x49, 0xff, 0xcd, //                               72 dec  r13
	0xeb, 0x94, //                                     75 jmp  0b
	// done
	0x41, 0xc7, 0x47, 0x20, 0x01, 0x00, 0x00, 0x00, // 77 mov  dword [r15+32], 1
	0xb8, 0xca, 0x00, 0x00, 0x00, //                   7f mov  eax, 202 futex
	0x49, 0x8d, 0x7f, 0x20, //                         84 lea  rdi, [r15+32]
	0xbe, 0x01, 0x00, 0x00, 0x00, //                   88 mov  esi, FUTEX_WAKE
	0xba, 0xff, 0xff, 0xff, 0x7f, //                   8d mov  edx, INT_MAX
	0x0f, 0x05, //                                     92 syscall
	0xb8, 0x0f, 0x01, 0x00, 0x00, //                   94 mov  eax, 271 ppoll
	0x31, 0xff, //                                     99 xor  edi, edi
	0x31, 0xf6, //                                     9b xor  esi, esi
	0x49, 0x8d, 0x57, 0x28, //                         9d lea  rdx, [r15+40]
	0x45, 0x31, 0xd2, //                               a1 xor  r10d, r10d
	0x45, 0x31, 0xc0, //                               a4 xor  r8d, r8d
	0x0f, 0x05, //                                     a7 syscall
	// back to the task's own work
	0x49, 0x8b, 0x67, 0x18, //                         a9 mov  rsp, [r15+24]
	0xb8, 0x0f, 0x00, 0x00, 0x00, //                   ad mov  eax, 15 rt_sigreturn
	0x0f, 0x05, //                                     b2 syscall
	0x0f, 0x0b, //                                     b4 ud2
}

// tapeRegs returns the registers that start the interpreter.
func tapeRegs(orig Regs, slice, code uint64) Regs {
	r := orig
	r.R15 = slice
	r.Rip = code
	r.Rax = 0
	r.Orig_rax = noSyscall
	r.Eflags &^= flagsOff
	return r
}
