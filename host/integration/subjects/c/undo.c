/*
 * Three processes change semaphores for as long as they live (SEM_UNDO): the
 * parent, a child with a second thread, and a child that will be ended. Asked to
 * "end", the parent has the children end one after the other and verifies what
 * the kernel took back.
 */
#include "subject.h"
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/wait.h>

#define SEMS 8

static int id;
static pid_t self, threaded, plain;

/* Values that all operations below lead to, and what is left without a child. */
static const int value[SEMS] = {0, 1, 32767, 5, 0, 7, 100, 32767};
static const int without_threaded[SEMS] = {1, 1, 32767, 5, 0, 7, 98, 0};
static const int without_both[SEMS] = {1, 1, 0, 5, 0, 7, 98, 0};

static void change(int n, int by, int flags)
{
	struct sembuf op = {.sem_num = n, .sem_op = by, .sem_flg = flags};
	check(semop(id, &op, 1) == 0);
}

static void *second(void *arg)
{
	change(6, 2, SEM_UNDO); /* the list is the process's */
	return arg;
}

static void same(const int *want, const char *when)
{
	for (int i = 0; i < SEMS; i++)
		if (semctl(id, i, GETVAL) != want[i])
			bad("%s semaphore %d is %d, was %d", when, i, semctl(id, i, GETVAL), want[i]);
}

static pid_t start(void (*work)(void))
{
	pid_t pid = fork();
	check(pid >= 0);
	if (pid == 0) {
		work();
		change(4, 1, 0); /* done; without undo */
		for (;;)
			pause();
	}
	while (semctl(id, 4, GETVAL) == 0)
		pause_ms(1);
	change(4, -1, 0);
	return pid;
}

static void with_thread(void)
{
	pthread_t thread;
	change(0, -1, SEM_UNDO); /* holds a lock */
	check(pthread_create(&thread, NULL, second, NULL) == 0 && pthread_join(thread, NULL) == 0);
	change(7, 32767, SEM_UNDO); /* the far end of the range */
}

static void alone(void)
{
	/* The lowest adjustment there is. */
	change(2, 32767, SEM_UNDO);
	change(2, -1, 0);
	change(2, 1, SEM_UNDO);
}

static void end(pid_t pid)
{
	check(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

int main(void)
{
	subject_open();
	self = getpid();
	check(unshare(CLONE_NEWIPC) == 0);
	id = semget(IPC_PRIVATE, SEMS, IPC_CREAT | 0600);
	check(id >= 0);
	unsigned short first[SEMS] = {1, 2, 0, 5, 0, 7, 98, 0};
	union { unsigned short *array; } arg = {first};
	check(semctl(id, 0, SETALL, arg) == 0);
	change(1, -1, SEM_UNDO);
	threaded = start(with_thread);
	plain = start(alone);
	say("ready");
	for (int n = 0; !asked("end"); n++) {
		same(value, "now");
		if (semctl(id, 0, GETPID) != threaded || semctl(id, 2, GETPID) != plain || semctl(id, 1, GETPID) != self)
			bad("the last processes are %d %d %d", semctl(id, 0, GETPID), semctl(id, 2, GETPID), semctl(id, 1, GETPID));
		say("tick %d", n);
		if (asked("break"))
			change(5, -1, 0);
		pause_ms(5);
	}
	end(threaded);
	same(without_threaded, "without a child");
	end(plain);
	same(without_both, "without children");
	say("undone");
	return 0;
}
