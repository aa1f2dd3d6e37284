/*
 * A program with several threads. Each one verifies that it kept its thread
 * id, its thread-local storage and its stack, and does its own kind of waiting.
 */
#include "subject.h"

enum { WORKERS = 8 };

struct worker {
	pthread_t thread;
	int index;
	pid_t tid;
	volatile unsigned long beats;
	volatile int quit;
};

static struct worker workers[WORKERS];
static __thread uint64_t local_seed;
static __thread char local_area[4096];

static pthread_mutex_t turn_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_cond = PTHREAD_COND_INITIALIZER;
static unsigned long turn;
static pthread_mutex_t robust;
static int numbers[2];

static void same_thread(struct worker *w)
{
	if (tid() != w->tid)
		bad("worker %d: thread id %d, was %d", w->index, tid(), w->tid);
	if (!pthread_equal(pthread_self(), w->thread))
		bad("worker %d: pthread_self changed", w->index);
	if (local_seed != mix(w->index))
		bad("worker %d: thread-local variable changed", w->index);
	if (verify(local_area, sizeof local_area, local_seed) >= 0)
		bad("worker %d: thread-local memory changed", w->index);
}

static void compute(struct worker *w)
{
	volatile double x = 1;
	for (int i = 0; i < 20000; i++)
		x = x * 1.0000001 + 1e-9;
	if (x < 1 || x > 2)
		bad("worker %d: computed %f", w->index, x);
	sched_yield();
}

/* Workers 4 and 5 take turns; neither can go on alone. */
static void take_turn(struct worker *w)
{
	pthread_mutex_lock(&turn_lock);
	while ((int)(turn & 1) != (w->index & 1) && !w->quit) {
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 1;
		int err = pthread_cond_timedwait(&turn_cond, &turn_lock, &until);
		if (err != 0 && err != ETIMEDOUT)
			bad("worker %d: condition: %s", w->index, strerror(err));
	}
	turn++;
	pthread_cond_broadcast(&turn_cond);
	pthread_mutex_unlock(&turn_lock);
}

static void read_number(struct worker *w, uint64_t *next)
{
	uint64_t got;
	ssize_t n = read(numbers[0], &got, sizeof got);
	if (n != sizeof got) {
		bad("worker %d: read returned %zd: %s", w->index, n, strerror(errno));
		return;
	}
	if (got != *next)
		bad("worker %d: read %lu from the pipe, want %lu", w->index, got, *next);
	*next = got + 1;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t next = 0;
	w->tid = tid();
	local_seed = mix(w->index);
	fill(local_area, sizeof local_area, local_seed);
	if (w->index == 7)
		pthread_mutex_lock(&robust);
	while (w->thread == 0)
		sched_yield();
	while (!w->quit) {
		switch (w->index) {
		case 0:
		case 1:
			compute(w);
			break;
		case 2:
		case 3:
			pause_ms(w->index);
			break;
		case 4:
		case 5:
			take_turn(w);
			break;
		case 6:
			read_number(w, &next);
			break;
		case 7:
			pause_ms(5);
			break;
		}
		same_thread(w);
		w->beats++;
	}
	return (void *)(uintptr_t)(100 + w->index);
}

static void *brief(void *arg)
{
	return arg;
}

/* New threads can be created and joined: stacks, clear_child_tid, futexes. */
static void short_thread(long n)
{
	pthread_t t;
	void *result = NULL;
	int err = pthread_create(&t, NULL, brief, (void *)n);
	if (err != 0) {
		bad("new thread: %s", strerror(err));
		return;
	}
	pthread_join(t, &result);
	if (result != (void *)n)
		bad("new thread returned %p", result);
}

/* Joins threads that are older than the checkpoint. */
static void finish(void)
{
	void *result;
	workers[2].quit = 1;
	pthread_join(workers[2].thread, &result);
	if (result != (void *)(uintptr_t)102)
		bad("joined thread returned %p", result);
	workers[7].quit = 1;
	pthread_join(workers[7].thread, NULL);
	int err = pthread_mutex_lock(&robust);
	if (err != EOWNERDEAD)
		bad("robust mutex of a dead thread: %s", strerror(err));
	say("finished");
	exit(0);
}

int main(void)
{
	unsigned long last[WORKERS] = {0};
	uint64_t sent = 0;
	pthread_mutexattr_t attr;

	subject_open();
	check(pipe(numbers) == 0);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	for (int i = 0; i < WORKERS; i++) {
		pthread_t t;
		workers[i].index = i;
		check(pthread_create(&t, NULL, work, &workers[i]) == 0);
		workers[i].thread = t;
	}
	say("ready");
	for (long n = 0;; n++) {
		for (int i = 0; i < 3; i++, sent++)
			if (write(numbers[1], &sent, sizeof sent) != sizeof sent)
				bad("write to the pipe: %s", strerror(errno));
		short_thread(n);
		for (int i = 0; i < WORKERS; i++) {
			while (workers[i].beats == last[i])
				pause_ms(1);
			last[i] = workers[i].beats;
		}
		say("tick %ld", n);
		if (asked("break"))
			workers[0].tid++;
		if (asked("finish"))
			finish();
		pause_ms(10);
	}
}
