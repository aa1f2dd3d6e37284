/*
 * void spin(struct spin *s): holds known values in every register that a
 * program can hold values in, until the flag on its stack is set.
 */
#include "spin.h"

	.text
	.globl	spin
	.type	spin, @function
spin:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdi			/* struct spin, at 16(%rsp) in the loop */
	sub	$16, %rsp
	movl	$0, 0(%rsp)		/* the flag */
	stmxcsr	8(%rsp)			/* the caller's */
	fnstcw	12(%rsp)

	ldmxcsr	SPIN_MXCSR(%rdi)
	fninit
	fldcw	SPIN_FCW(%rdi)
	.set	i, 7
	.rept	8
	fldt	(SPIN_X87 + 16 * i)(%rdi)
	.set	i, i - 1
	.endr

	testq	$2, SPIN_FEATURES(%rdi)
	jz	1f
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq	(SPIN_MASK + 8 * \r)(%rdi), %k\r
	.endr
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64	(SPIN_VECTOR + 64 * \r)(%rdi), %zmm\r
	.endr
	jmp	3f
1:	testq	$1, SPIN_FEATURES(%rdi)
	jz	2f
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	(SPIN_VECTOR + 64 * \r)(%rdi), %ymm\r
	.endr
	jmp	3f
2:
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	movdqu	(SPIN_VECTOR + 64 * \r)(%rdi), %xmm\r
	.endr
3:
	.set	i, 0
	.rept	16
	mov	(SPIN_RED + 8 * i)(%rdi), %rax
	mov	%rax, (-128 + 8 * i)(%rsp)
	.set	i, i + 1
	.endr

	mov	%rsp, SPIN_FLAG(%rdi)
	mov	(SPIN_GPR + 0)(%rdi), %rax
	mov	(SPIN_GPR + 8)(%rdi), %rbx
	mov	(SPIN_GPR + 16)(%rdi), %rcx
	mov	(SPIN_GPR + 24)(%rdi), %rdx
	mov	(SPIN_GPR + 32)(%rdi), %rsi
	mov	(SPIN_GPR + 48)(%rdi), %rbp
	mov	(SPIN_GPR + 56)(%rdi), %r8
	mov	(SPIN_GPR + 64)(%rdi), %r9
	mov	(SPIN_GPR + 72)(%rdi), %r10
	mov	(SPIN_GPR + 80)(%rdi), %r11
	mov	(SPIN_GPR + 88)(%rdi), %r12
	mov	(SPIN_GPR + 96)(%rdi), %r13
	mov	(SPIN_GPR + 104)(%rdi), %r14
	mov	(SPIN_GPR + 112)(%rdi), %r15
	mov	(SPIN_GPR + 40)(%rdi), %rdi
4:	cmpl	$0, 0(%rsp)
	je	4b

	/* The red zone is below the stack pointer: save a register in the slot
	 * that held the flag. */
	mov	%rdi, 0(%rsp)
	mov	16(%rsp), %rdi
	mov	%rax, (SPIN_GPR_OUT + 0)(%rdi)
	mov	%rbx, (SPIN_GPR_OUT + 8)(%rdi)
	mov	%rcx, (SPIN_GPR_OUT + 16)(%rdi)
	mov	%rdx, (SPIN_GPR_OUT + 24)(%rdi)
	mov	%rsi, (SPIN_GPR_OUT + 32)(%rdi)
	mov	%rbp, (SPIN_GPR_OUT + 48)(%rdi)
	mov	%r8, (SPIN_GPR_OUT + 56)(%rdi)
	mov	%r9, (SPIN_GPR_OUT + 64)(%rdi)
	mov	%r10, (SPIN_GPR_OUT + 72)(%rdi)
	mov	%r11, (SPIN_GPR_OUT + 80)(%rdi)
	mov	%r12, (SPIN_GPR_OUT + 88)(%rdi)
	mov	%r13, (SPIN_GPR_OUT + 96)(%rdi)
	mov	%r14, (SPIN_GPR_OUT + 104)(%rdi)
	mov	%r15, (SPIN_GPR_OUT + 112)(%rdi)
	mov	0(%rsp), %rax
	mov	%rax, (SPIN_GPR_OUT + 40)(%rdi)
	.set	i, 0
	.rept	16
	mov	(-128 + 8 * i)(%rsp), %rax
	mov	%rax, (SPIN_RED_OUT + 8 * i)(%rdi)
	.set	i, i + 1
	.endr

	testq	$2, SPIN_FEATURES(%rdi)
	jz	5f
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7
	kmovq	%k\r, (SPIN_MASK_OUT + 8 * \r)(%rdi)
	.endr
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	vmovdqu64	%zmm\r, (SPIN_VECTOR_OUT + 64 * \r)(%rdi)
	.endr
	vzeroupper
	jmp	7f
5:	testq	$1, SPIN_FEATURES(%rdi)
	jz	6f
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovdqu	%ymm\r, (SPIN_VECTOR_OUT + 64 * \r)(%rdi)
	.endr
	vzeroupper
	jmp	7f
6:
	.irp	r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	movdqu	%xmm\r, (SPIN_VECTOR_OUT + 64 * \r)(%rdi)
	.endr
7:
	.set	i, 0
	.rept	8
	fstpt	(SPIN_X87_OUT + 16 * i)(%rdi)
	.set	i, i + 1
	.endr
	fnstcw	SPIN_FCW_OUT(%rdi)
	stmxcsr	SPIN_MXCSR_OUT(%rdi)
	fninit
	fldcw	12(%rsp)
	ldmxcsr	8(%rsp)
	add	$24, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret
	.size	spin, . - spin
	.section	.note.GNU-stack, "", @progbits
