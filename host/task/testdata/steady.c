// A program whose threads hold known values in general registers, AVX
// registers and memory, and check them again and again. "steady N" starts N
// threads beside the main one. It prints "ok" every few milliseconds, or a line
// that starts with BAD.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int bad;
static atomic_long rounds[64];

static void fail(const char *what) {
	printf("BAD %s\n", what);
	fflush(stdout);
	atomic_store(&bad, 1);
}

// spin keeps values in registers for a while and compares them afterwards. The
// red zone below the stack pointer is used as well.
static int spin(uint64_t seed, long turns) {
	uint64_t result = 0;
	uint64_t v[4] = {seed, seed + 1, seed + 2, seed + 3};
	__asm__ volatile(
		"mov %[seed], %%rbx\n"
		"lea 1(%%rbx), %%r12\n"
		"lea 2(%%rbx), %%r13\n"
		"lea 3(%%rbx), %%r14\n"
		"lea 4(%%rbx), %%r8\n"
		"lea 5(%%rbx), %%r9\n"
		"vmovdqu %[v], %%ymm5\n"
		"vmovdqu %[v], %%ymm15\n"
		"fld1\n"
		"mov %%rbx, -64(%%rsp)\n"
		"1: pause\n"
		"dec %[turns]\n"
		"jnz 1b\n"
		"xor %[result], %[result]\n"
		"cmp %%rbx, %[seed]\n jne 2f\n"
		"cmp %%rbx, -64(%%rsp)\n jne 2f\n"
		"lea 1(%%rbx), %%rax\n cmp %%rax, %%r12\n jne 2f\n"
		"lea 2(%%rbx), %%rax\n cmp %%rax, %%r13\n jne 2f\n"
		"lea 3(%%rbx), %%rax\n cmp %%rax, %%r14\n jne 2f\n"
		"lea 4(%%rbx), %%rax\n cmp %%rax, %%r8\n jne 2f\n"
		"lea 5(%%rbx), %%rax\n cmp %%rax, %%r9\n jne 2f\n"
		"vpcmpeqq %%ymm5, %%ymm15, %%ymm6\n"
		"vmovdqu %%ymm15, %[v]\n"
		"vpmovmskb %%ymm6, %%eax\n cmp $-1, %%eax\n jne 2f\n"
		"fld1\n fcomip %%st(1), %%st\n jne 2f\n"
		"jmp 3f\n"
		"2: mov $1, %[result]\n"
		"3: fstp %%st(0)\n"
		: [result] "=&r"(result), [turns] "+r"(turns), [v] "+m"(v)
		: [seed] "r"(seed)
		: "rax", "rbx", "r8", "r9", "r12", "r13", "r14", "ymm5", "ymm6", "ymm15", "st", "cc", "memory");
	for (int i = 0; i < 4; i++)
		if (v[i] != seed + i)
			result = 1;
	return result != 0;
}

static void check_mask(void) {
	sigset_t set;
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	for (int s = 1; s < 32; s++)
		if (sigismember(&set, s) != (s == SIGUSR2))
			fail("signal mask");
}

static void *worker(void *arg) {
	long n = (long)arg;
	size_t len = 64 * 1024;
	unsigned char *mem = malloc(len);
	memset(mem, (int)n, len);
	while (!atomic_load(&bad)) {
		if (spin(0x1234567800000000ULL + n * 1000 + rounds[n], 20000))
			fail("registers");
		for (size_t i = 0; i < len; i++)
			if (mem[i] != (unsigned char)n)
				fail("memory");
		check_mask();
		if (n % 2) { // an interrupted sleep must take its whole time
			struct timespec a, b, d = {0, 3000000};
			clock_gettime(CLOCK_MONOTONIC, &a);
			if (nanosleep(&d, NULL))
				fail("nanosleep returned early");
			clock_gettime(CLOCK_MONOTONIC, &b);
			if ((b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec < 3000000)
				fail("nanosleep was too short");
		}
		atomic_fetch_add(&rounds[n], 1);
	}
	return NULL;
}

int main(int argc, char **argv) {
	int n = argc > 1 ? atoi(argv[1]) : 0;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (long i = 1; i <= n; i++) {
		pthread_t t;
		if (pthread_create(&t, NULL, worker, (void *)i))
			return 1;
	}
	puts("ready");
	fflush(stdout);
	while (!atomic_load(&bad)) {
		long seen[64];
		for (int i = 1; i <= n; i++)
			seen[i] = rounds[i];
		if (spin(42, 20000))
			fail("registers of main");
		struct timespec d = {0, 2000000};
		if (nanosleep(&d, NULL))
			fail("nanosleep of main returned early");
		check_mask();
		for (int i = 1; i <= n; i++) // every thread must go on
			while (rounds[i] == seen[i] && !bad)
				usleep(200);
		if (write(1, "ok\n", 3) != 3)
			return 0;
	}
	return 1;
}
