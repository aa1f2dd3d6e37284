/*
 * A tree that changes all the time: "processes", of which each forks children
 * that end after a moment and are replaced, or "threads" that are created and
 * end. The number of live ones is bounded. Every one that begins is counted in
 * shared memory, and again when it ends; in the end both numbers are the same,
 * and so many were reaped.
 */
#include "subject.h"

enum { BRANCHES = 3, LEAVES = 4, THREADS = 8 };

static struct counters {
	_Atomic unsigned long begun, ended, reaped, wrong;
	_Atomic int stop;
} *counters;

/* The work of one: its result depends on everything that it has. */
static int work(unsigned long n)
{
	uint64_t area[64];
	fill(area, sizeof area, n);
	for (int i = 0; i < 1 + (int)(n % 5); i++) {
		struct timespec ts = {0, 200000};
		nanosleep(&ts, NULL);
		if (verify(area, sizeof area, n) >= 0)
			counters->wrong++;
	}
	counters->ended++;
	return (int)(n % 100);
}

static void leaf(unsigned long n)
{
	counters->begun++;
	_exit(work(n));
}

/* Reaps a child, which must have the status that its number gives it. */
static int reap(pid_t *pids, unsigned long *numbers, int count, int options)
{
	int status;
	pid_t pid = waitpid(-1, &status, options);
	if (pid <= 0)
		return 0;
	for (int i = 0; i < count; i++)
		if (pids[i] == pid) {
			pids[i] = 0;
			counters->reaped++;
			if (!WIFEXITED(status) || WEXITSTATUS(status) != (int)(numbers[i] % 100))
				counters->wrong++;
			return 1;
		}
	counters->wrong++; /* a child that it never had */
	return 1;
}

static void branch(unsigned long seed)
{
	pid_t pids[LEAVES] = {0};
	unsigned long numbers[LEAVES], n = seed;
	while (!counters->stop) {
		for (int i = 0; i < LEAVES; i++)
			if (pids[i] == 0) {
				numbers[i] = n++;
				pids[i] = fork();
				if (pids[i] == 0)
					leaf(numbers[i]);
				if (pids[i] < 0)
					counters->wrong++;
			}
		reap(pids, numbers, LEAVES, 0);
	}
	while (reap(pids, numbers, LEAVES, 0))
		;
	_exit(0);
}

static void *thread(void *arg)
{
	counters->begun++;
	return (void *)(uintptr_t)work((unsigned long)(uintptr_t)arg);
}

static void *thread_branch(void *arg)
{
	unsigned long n = (unsigned long)(uintptr_t)arg;
	pthread_t t[THREADS];
	while (!counters->stop) {
		for (int i = 0; i < THREADS; i++)
			check(pthread_create(&t[i], NULL, thread, (void *)(uintptr_t)(n + i)) == 0);
		for (int i = 0; i < THREADS; i++) {
			void *result;
			pthread_join(t[i], &result);
			if (result != (void *)(uintptr_t)((n + i) % 100))
				counters->wrong++;
			counters->reaped++;
		}
		n += THREADS;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int processes = argc > 1 && strcmp(argv[1], "processes") == 0;
	pthread_t threads[BRANCHES];
	pid_t pids[BRANCHES];
	unsigned long last = 0;

	subject_open();
	counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(counters != MAP_FAILED);
	for (unsigned long i = 0; i < BRANCHES; i++) {
		if (!processes) {
			check(pthread_create(&threads[i], NULL, thread_branch, (void *)(uintptr_t)(i * 1000)) == 0);
			continue;
		}
		check((pids[i] = fork()) >= 0);
		if (pids[i] == 0)
			branch(i * 1000);
	}
	say("ready");
	for (long n = 0; !asked("finish"); n++) {
		while (counters->reaped < last + 20)
			pause_ms(1);
		last = counters->reaped;
		if (asked("break"))
			counters->wrong++;
		if (counters->wrong)
			bad("%lu results were wrong", counters->wrong);
		say("tick %ld", n);
		pause_ms(10);
	}
	counters->stop = 1;
	for (int i = 0; i < BRANCHES; i++) {
		int status;
		if (!processes)
			pthread_join(threads[i], NULL);
		else if (waitpid(pids[i], &status, 0) != pids[i] || status != 0)
			bad("branch %d ended with %#x: %s", i, status, strerror(errno));
	}
	if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD)
		bad("a child is left");
	if (counters->begun != counters->ended || counters->begun != counters->reaped || counters->wrong)
		bad("%lu began, %lu ended, %lu were reaped, %lu wrong", counters->begun, counters->ended,
			counters->reaped, counters->wrong);
	say("finished");
	return 0;
}
