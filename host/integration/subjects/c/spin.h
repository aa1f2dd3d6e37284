/*
 * struct spin: what spin_amd64.S loads into the registers, and finds there
 * after it was released. The offsets are written into the assembly.
 */
#ifndef SPIN_H
#define SPIN_H

#define SPIN_FLAG 0     /* address of the flag on the spinner's stack */
#define SPIN_FEATURES 8 /* bits: 1 AVX, 2 AVX-512 */
#define SPIN_MXCSR 16
#define SPIN_MXCSR_OUT 20
#define SPIN_FCW 24
#define SPIN_FCW_OUT 26
#define SPIN_GPR 64
#define SPIN_GPR_OUT 192
#define SPIN_X87 320
#define SPIN_X87_OUT 448
#define SPIN_RED 576
#define SPIN_RED_OUT 704
#define SPIN_MASK 832
#define SPIN_MASK_OUT 896
#define SPIN_VECTOR 1024
#define SPIN_VECTOR_OUT 3072

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

struct spin {
	volatile int32_t *volatile flag;
	uint64_t features;
	uint32_t mxcsr, mxcsr_out;
	uint16_t fcw, fcw_out;
	uint8_t pad0[36];
	uint64_t gpr[16], gpr_out[16];        /* 15 are used */
	uint8_t x87[128], x87_out[128];       /* 8 values of 10 bytes, 16 apart */
	uint64_t red[16], red_out[16];        /* the 128 bytes below the stack pointer */
	uint64_t mask[8], mask_out[8];        /* k0-k7 */
	uint8_t pad1[64];
	uint8_t vector[2048], vector_out[2048]; /* 32 registers of 64 bytes, or 16 of 32 */
} __attribute__((aligned(64)));

_Static_assert(offsetof(struct spin, gpr) == SPIN_GPR, "gpr");
_Static_assert(offsetof(struct spin, x87) == SPIN_X87, "x87");
_Static_assert(offsetof(struct spin, red) == SPIN_RED, "red");
_Static_assert(offsetof(struct spin, mask) == SPIN_MASK, "mask");
_Static_assert(offsetof(struct spin, vector) == SPIN_VECTOR, "vector");
_Static_assert(offsetof(struct spin, vector_out) == SPIN_VECTOR_OUT, "vector_out");

/* Loads every register, stores the flag's address, spins until the flag is
 * set, stores every register. */
void spin(struct spin *s);
#endif
#endif
