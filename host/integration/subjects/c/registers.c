/*
 * A program that holds known values in every register while it spins, in two
 * threads, with different signal masks; a third thread verifies memory, and a
 * fourth waits in system calls that must not be cut short. It is the victim of
 * the crash tests: whatever kills the checkpoint, nothing of this may change.
 */
#include "spin.h"
#include "subject.h"

enum { SPINNERS = 2, AREA = 8 << 20 };

/* The argument is the number of spinners; each keeps a CPU busy. */
static int spinners = SPINNERS;

static struct spin spins[SPINNERS];
static pid_t tids[SPINNERS];
static volatile unsigned long rounds[SPINNERS], scans, waits;
static volatile int damage;
static char *area;
static int quiet[2];

static void prepare(struct spin *s, uint64_t seed)
{
	memset(s, 0, sizeof *s);
	s->features = (__builtin_cpu_supports("avx") ? 1 : 0) | (__builtin_cpu_supports("avx512bw") ? 2 : 0);
	/* All exceptions masked; rounding down, flush to zero; x87 rounding up,
	 * double precision: nothing that a program has by default. */
	s->mxcsr = 0x1f80 | 1 << 13 | 1 << 15;
	s->fcw = 0x027f | 2 << 10;
	fill(s->gpr, sizeof s->gpr, seed);
	fill(s->red, sizeof s->red, seed + 1000);
	fill(s->mask, sizeof s->mask, seed + 2000);
	fill(s->vector, sizeof s->vector, seed + 3000);
	for (int i = 0; i < 8; i++) {
		/* A normal number of 80 bits: integer bit set, exponent in range. */
		uint64_t mantissa = mix(seed + 4000 + i) | 1ull << 63;
		uint16_t exponent = 0x3f00 + (mix(seed + i) & 0xff);
		memcpy(s->x87 + 16 * i, &mantissa, 8);
		memcpy(s->x87 + 16 * i + 8, &exponent, 2);
	}
}

static void compare(int i, const char *what, const void *want, const void *got, size_t size)
{
	if (memcmp(want, got, size) == 0)
		return;
	const unsigned char *w = want, *g = got;
	size_t at = 0;
	while (w[at] == g[at])
		at++;
	bad("spinner %d: %s differ at byte %zu: %02x, want %02x", i, what, at, g[at], w[at]);
}

static void compare_all(int i, struct spin *s)
{
	compare(i, "general registers", s->gpr, s->gpr_out, 15 * 8);
	compare(i, "red zone", s->red, s->red_out, sizeof s->red);
	for (int r = 0; r < 8; r++)
		compare(i, "x87 registers", s->x87 + 16 * r, s->x87_out + 16 * r, 10);
	compare(i, "mxcsr", &s->mxcsr, &s->mxcsr_out, 4);
	compare(i, "x87 control word", &s->fcw, &s->fcw_out, 2);
	if (s->features & 2) {
		compare(i, "mask registers", s->mask, s->mask_out, sizeof s->mask);
		compare(i, "zmm registers", s->vector, s->vector_out, sizeof s->vector);
		return;
	}
	for (int r = 0; r < 16; r++)
		compare(i, "vector registers", s->vector + 64 * r, s->vector_out + 64 * r, s->features & 1 ? 32 : 16);
}

static void same_task(int i, const sigset_t *mask)
{
	sigset_t now;
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	if (memcmp(mask, &now, 8) != 0)
		bad("spinner %d: signal mask %lx, want %lx", i, *(long *)&now, *(const long *)mask);
	if (tid() != tids[i])
		bad("spinner %d: thread id %d, was %d", i, tid(), tids[i]);
}

static void *spinner(void *arg)
{
	int i = (int)(uintptr_t)arg;
	sigset_t mask;
	tids[i] = tid();
	if (i == 0)
		sigfillset(&mask); /* SIGTRAP is among them */
	else
		sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + 7 + i);
	pthread_sigmask(SIG_SETMASK, &mask, NULL);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	for (uint64_t n = 0;; n++) {
		prepare(&spins[i], mix(n * SPINNERS + i));
		spin(&spins[i]);
		if (damage)
			spins[i].vector_out[7 * 64 + 3] ^= 1;
		compare_all(i, &spins[i]);
		same_task(i, &mask);
		rounds[i]++;
	}
	return NULL;
}

static void *scanner(void *arg)
{
	for (;;) {
		long at = verify(area, AREA, 42);
		if (at >= 0)
			bad("memory differs at %ld", at);
		scans++;
		pause_ms(1);
	}
	return arg;
}

static void *waiter(void *arg)
{
	for (;;) {
		struct timespec ts = {0, 20000000};
		fd_set set;
		FD_ZERO(&set);
		FD_SET(quiet[0], &set);
		uint64_t start = now_ns();
		int n = pselect(quiet[0] + 1, &set, NULL, NULL, &ts, NULL);
		if (n != 0)
			bad("pselect returned %d: %s", n, strerror(errno));
		if (now_ns() - start < 19000000)
			bad("pselect came back early");
		waits++;
	}
	return arg;
}

/* Releases the spinner once it spins, and waits until it has compared. */
static void release(int i)
{
	unsigned long round = rounds[i];
	volatile int32_t *flag;
	while ((flag = spins[i].flag) == NULL)
		sched_yield();
	spins[i].flag = NULL;
	*flag = 1;
	while (rounds[i] == round)
		sched_yield();
}

int main(int argc, char **argv)
{
	pthread_t t;
	unsigned long last_scans = 0, last_waits = 0;

	if (argc > 1)
		spinners = atoi(argv[1]);
	subject_open();
	check(spinners >= 1 && spinners <= SPINNERS);
	check(pipe(quiet) == 0);
	area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(area != MAP_FAILED);
	fill(area, AREA, 42);
	for (int i = 0; i < spinners; i++)
		check(pthread_create(&t, NULL, spinner, (void *)(uintptr_t)i) == 0);
	check(pthread_create(&t, NULL, scanner, NULL) == 0);
	check(pthread_create(&t, NULL, waiter, NULL) == 0);
	say("ready");
	for (long n = 0;; n++) {
		pause_ms(10);
		for (int i = 0; i < spinners; i++)
			release(i);
		while (scans == last_scans || waits == last_waits)
			pause_ms(1);
		last_scans = scans;
		last_waits = waits;
		say("tick %ld", n);
		if (asked("break"))
			damage = 1;
	}
}
