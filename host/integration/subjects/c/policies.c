/*
 * Threads of every scheduling policy (sched(7)), which verify it all the time.
 * The process has a login uid, which only an administrator can give.
 */
#include "subject.h"

struct attributes { /* struct sched_attr of the first version */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

enum { OTHER, FIFO, RR, BATCH, IDLE = 5, DEADLINE };

static struct worker {
	struct attributes want;
	volatile unsigned long count;
	volatile int damage;
} workers[] = {
	{.want = {.policy = OTHER, .nice = -3}},
	{.want = {.policy = FIFO, .priority = 7}},
	{.want = {.policy = RR, .priority = 9, .flags = 1 /* reset on fork */}},
	{.want = {.policy = BATCH, .nice = 5}},
	{.want = {.policy = IDLE}},
	{.want = {.policy = DEADLINE, .runtime = 2000000, .deadline = 30000000, .period = 40000000}},
};
enum { WORKERS = sizeof workers / sizeof *workers };

static void *run(void *arg)
{
	struct worker *w = arg;
	w->want.size = sizeof w->want;
	check(syscall(SYS_sched_setattr, 0, &w->want, 0) == 0);
	for (;;) {
		struct attributes got = {0};
		if (syscall(SYS_sched_getattr, 0, &got, sizeof got, 0) != 0)
			bad("sched_getattr: %s", strerror(errno));
		struct attributes *a = &w->want;
		int deadline = a->policy == DEADLINE;
		if (got.policy != a->policy || got.priority != a->priority || (got.flags & 1) != (a->flags & 1) || got.nice != a->nice ||
		    (deadline && (got.runtime != a->runtime || got.deadline != a->deadline || got.period != a->period)))
			bad("policy %u priority %u nice %d flags %lx runtime %lu, was policy %u", got.policy, got.priority, got.nice,
			    (long)got.flags, (long)got.runtime, a->policy);
		w->count++;
		pause_ms(5);
	}
	return NULL;
}

static void same_login(void)
{
	char text[32] = "";
	int fd = open("/proc/self/loginuid", O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0 || strcmp(text, "4242"))
		bad("login uid %s, was 4242", text);
}

int main(void)
{
	pthread_t t;
	unsigned long last[WORKERS] = {0};
	subject_open();
	int fd = open("/proc/self/loginuid", O_WRONLY);
	check(fd >= 0 && write(fd, "4242", 4) == 4 && close(fd) == 0);
	for (int i = 0; i < WORKERS; i++)
		check(pthread_create(&t, NULL, run, &workers[i]) == 0);
	say("ready");
	for (long n = 0;; n++) {
		for (int i = 0; i < WORKERS; i++) {
			while (workers[i].count == last[i])
				pause_ms(2);
			last[i] = workers[i].count;
		}
		same_login();
		say("tick %ld", n);
		if (asked("break"))
			workers[1].want.priority = 8;
	}
}
