/* long hold(long avx512): fills every register with a pattern, spins until the
 * byte go is set, and stores what is left in the registers to out. The caller
 * compares. The direction flag is set meanwhile. */
	.intel_syntax noprefix
	.data
	.globl go, gpr, vec, out_gpr, out_vec, out_red, out_x87, out_flags, out_mxcsr, out_cw
	.balign 64
gpr:	.quad 0x1111111111111111, 0x2222222222222222, 0x3333333333333333, 0x4444444444444444
	.quad 0x5555555555555555, 0x6666666666666666, 0x7777777777777777, 0x8888888888888888
	.quad 0x9999999999999999, 0xaaaaaaaaaaaaaaaa, 0xbbbbbbbbbbbbbbbb, 0xcccccccccccccccc
	.quad 0xdddddddddddddddd, 0xeeeeeeeeeeeeeeee, 0xf0f0f0f0f0f0f0f0
	.balign 64
vec:	.fill 2112, 1, 0		/* 32 vectors, 8 masks; filled by C */
	.balign 64
out_gpr: .fill 15, 8, 0
	.balign 64
out_vec: .fill 2112, 1, 0
out_red: .quad 0, 0
out_x87: .fill 4, 8, 0
out_flags: .quad 0
out_mxcsr: .long 0
out_cw:	.word 0
my_mxcsr: .long 0x7f80			/* round to zero, exceptions masked */
my_cw:	.word 0x0e7f			/* round to zero, double precision */
go:	.byte 0
saved:	.quad 0
	.text
	.globl hold
	.type hold, @function
hold:
	push rbx
	push rbp
	push r12
	push r13
	push r14
	push r15
	fninit
	fldcw [rip+my_cw]
	fldpi
	fldl2e
	ldmxcsr [rip+my_mxcsr]
	mov [rip+saved], rdi
	test rdi, rdi
	jz 1f
	.altmacro
	.macro ld512 n
	vmovdqu64 zmm\n, [rip+vec+64*\n]
	.endm
	.macro st512 n
	vmovdqu64 [rip+out_vec+64*\n], zmm\n
	.endm
	.macro ld256 n
	vmovdqu ymm\n, [rip+vec+64*\n]
	.endm
	.macro st256 n
	vmovdqu [rip+out_vec+64*\n], ymm\n
	.endm
	.set i, 0
	.rept 32
	ld512 %i
	.set i, i+1
	.endr
	.irp n, 1,2,3,4,5,6,7
	kmovq k\n, [rip+vec+2048+8*\n]
	.endr
	jmp 2f
1:	.set i, 0
	.rept 16
	ld256 %i
	.set i, i+1
	.endr
2:	movabs rax, 0x0102030405060708
	mov [rsp-8], rax
	mov [rsp-128], rax
	std
	mov rax, [rip+gpr]
	mov rbx, [rip+gpr+8]
	mov rcx, [rip+gpr+16]
	mov rdx, [rip+gpr+24]
	mov rsi, [rip+gpr+32]
	mov rdi, [rip+gpr+40]
	mov rbp, [rip+gpr+48]
	mov r8, [rip+gpr+56]
	mov r9, [rip+gpr+64]
	mov r10, [rip+gpr+72]
	mov r11, [rip+gpr+80]
	mov r12, [rip+gpr+88]
	mov r13, [rip+gpr+96]
	mov r14, [rip+gpr+104]
	mov r15, [rip+gpr+112]
3:	cmp byte ptr [rip+go], 0
	je 3b
	mov [rip+out_gpr], rax
	mov [rip+out_gpr+8], rbx
	mov [rip+out_gpr+16], rcx
	mov [rip+out_gpr+24], rdx
	mov [rip+out_gpr+32], rsi
	mov [rip+out_gpr+40], rdi
	mov [rip+out_gpr+48], rbp
	mov [rip+out_gpr+56], r8
	mov [rip+out_gpr+64], r9
	mov [rip+out_gpr+72], r10
	mov [rip+out_gpr+80], r11
	mov [rip+out_gpr+88], r12
	mov [rip+out_gpr+96], r13
	mov [rip+out_gpr+104], r14
	mov [rip+out_gpr+112], r15
	mov rax, [rsp-8]
	mov [rip+out_red], rax
	mov rax, [rsp-128]
	mov [rip+out_red+8], rax
	pushfq
	pop qword ptr [rip+out_flags]
	cld
	fstcw [rip+out_cw]
	fstp tbyte ptr [rip+out_x87]
	fstp tbyte ptr [rip+out_x87+16]
	fninit
	stmxcsr [rip+out_mxcsr]
	cmp qword ptr [rip+saved], 0
	je 4f
	.set i, 0
	.rept 32
	st512 %i
	.set i, i+1
	.endr
	.irp n, 1,2,3,4,5,6,7
	kmovq [rip+out_vec+2048+8*\n], k\n
	.endr
	jmp 5f
4:	.set i, 0
	.rept 16
	st256 %i
	.set i, i+1
	.endr
5:	vzeroupper
	push 0x1f80
	ldmxcsr [rsp]
	pop rax
	pop r15
	pop r14
	pop r13
	pop r12
	pop rbp
	pop rbx
	xor eax, eax
	ret
	.size hold, .-hold
	.section .note.GNU-stack,"",@progbits
