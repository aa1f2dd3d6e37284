/*
 * A process that leaves children to whoever takes orphans in: one in its own
 * session and group, one in a session of its own, and one with a child. Each
 * verifies its numbers, and that the same process is its parent for good.
 */
#include "subject.h"

enum { LEFT = 4 };

static struct shared {
	long rounds[LEFT];
	pid_t pids[LEFT];
} *shared;

static void member(int i, pid_t creator)
{
	while (i < 3 && getppid() == creator) /* which ends */
		pause_ms(1);
	pid_t self = getpid(), parent = getppid(), group = getpgrp(), session = getsid(0);
	shared->pids[i] = self;
	for (;;) {
		if (getpid() != self || getppid() != parent || getpgrp() != group || getsid(0) != session)
			bad("orphan %d: process %d was %d, parent %d was %d, group %d was %d, session %d was %d", i, getpid(), self,
				getppid(), parent, getpgrp(), group, getsid(0), session);
		shared->rounds[i]++;
		pause_ms(5);
	}
}

static void leave(int i)
{
	int status;
	pid_t middle = fork();
	if (middle == 0) {
		pid_t self = getpid();
		if (i == 1)
			check(setsid() == self);
		if (fork() == 0) {
			if (i == 2 && fork() == 0)
				member(3, 0);
			member(i, self);
		}
		_exit(0);
	}
	check(waitpid(middle, &status, 0) == middle);
	while (__atomic_load_n(&shared->rounds[i], __ATOMIC_SEQ_CST) == 0)
		pause_ms(1);
}

int main(void)
{
	int left = 0;
	subject_open();
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(shared != MAP_FAILED);
	pid_t self = getpid();
	say("ready");
	for (long n = 0;; n++) {
		if (getpid() != self)
			bad("process %d was %d", getpid(), self);
		for (int i = 0; left && i < LEFT; i++) {
			long before = shared->rounds[i];
			while (__atomic_load_n(&shared->rounds[i], __ATOMIC_SEQ_CST) == before)
				pause_ms(1);
			if (kill(shared->pids[i], 0) != 0)
				bad("orphan %d: %s", shared->pids[i], strerror(errno));
		}
		pause_ms(5);
		say("tick %ld", n);
		if (!left && asked("leave")) {
			for (int i = 0; i < 3; i++)
				leave(i);
			left = 1;
			say("left");
		}
		if (asked("finish")) {
			say("finished");
			return 23;
		}
	}
}
