/*
 * Numbers of tasks, wherever a program meets them: its own, those of its
 * threads, children, groups and sessions, in /proc, in timers, as owners of
 * files, in signals that are pending. They are the same after a restore, also
 * in a PID namespace that is new.
 */
#include "subject.h"

#include <poll.h>

enum { NOTIFY = 40 };

static pid_t self, session, group, worker_tid, child, member, dead;
static int owned[2], group_owned[2], gone_owned[2];
static volatile sig_atomic_t notified, ready_io;
static volatile int wrong_thread, finishing, thread_signal_of;

static void on_notify(int sig)
{
	(void)sig;
	notified++;
	if (tid() != worker_tid)
		wrong_thread = 1;
}

static void on_io(int sig)
{
	(void)sig;
	ready_io++;
}

static void *worker(void *arg)
{
	sigset_t set;
	(void)arg;
	sigfillset(&set);
	sigdelset(&set, NOTIFY);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	__atomic_store_n(&worker_tid, tid(), __ATOMIC_SEQ_CST);
	for (;;) {
		if (tid() != worker_tid)
			bad("thread %d was %d", tid(), worker_tid);
		poll(NULL, 0, 5);
		if (finishing && thread_signal_of == 0) {
			sigset_t own;
			siginfo_t info = {0};
			struct timespec none = {0, 0};
			sigemptyset(&own);
			sigaddset(&own, SIGUSR2);
			if (sigtimedwait(&own, &info, &none) != SIGUSR2)
				info.si_pid = -1;
			thread_signal_of = info.si_pid;
		}
	}
	return NULL;
}

/* A child that sends its parent a signal, which stays pending, and verifies
 * that it is what it was. */
static void child_main(void)
{
	check(setpgid(0, 0) == 0);
	union sigval v = {.sival_int = 77};
	check(sigqueue(self, SIGUSR1, v) == 0);
	check(syscall(SYS_tgkill, self, worker_tid, SIGUSR2) == 0);
	pid_t me = getpid();
	for (;;) {
		/* Once the root has ended the child has another parent, for a moment. */
		pid_t parent = asked("abandon") ? self : getppid();
		if (getpid() != me || parent != self || getpgrp() != me || getsid(0) != session)
			bad("child %d was %d, parent %d, group %d, session %d", getpid(), me, getppid(), getpgrp(), getsid(0));
		pause_ms(5);
	}
}

/* A member of a group whose leader ended. */
static void member_main(pid_t leader)
{
	for (;;) {
		if (getpgrp() != leader)
			bad("group %d was %d", getpgrp(), leader);
		pause_ms(5);
	}
}

static void own(int fds[2], pid_t owner)
{
	check(pipe2(fds, O_NONBLOCK) == 0);
	check(fcntl(fds[0], F_SETOWN, owner) == 0);
}

static void start_children(void)
{
	child = fork();
	check(child >= 0);
	if (child == 0)
		child_main();
	dead = fork();
	check(dead >= 0);
	if (dead == 0) {
		setpgid(0, 0);
		for (;;)
			pause();
	}
	while (getpgid(dead) != dead)
		pause_ms(1);
	member = fork();
	check(member >= 0);
	if (member == 0) {
		check(setpgid(0, dead) == 0);
		member_main(dead);
	}
	while (getpgid(member) != dead)
		pause_ms(1);
	own(gone_owned, -dead);
	kill(dead, SIGKILL);
	check(waitpid(dead, NULL, 0) == dead);
	while (getpgid(child) != child)
		pause_ms(1);
}

static void start(void)
{
	sigset_t set;
	pthread_t t;
	struct sigaction sa = {.sa_handler = on_notify, .sa_flags = SA_RESTART};
	sigaction(NOTIFY, &sa, NULL);
	sa.sa_handler = on_io;
	sigaction(SIGIO, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, NOTIFY);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	check(pthread_create(&t, NULL, worker, NULL) == 0);
	while (worker_tid == 0)
		pause_ms(1);
	start_children();

	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = NOTIFY};
	ev._sigev_un._tid = worker_tid;
	struct itimerspec spec = {{0, 5000000}, {0, 5000000}};
	timer_t timer;
	check(syscall(SYS_timer_create, CLOCK_MONOTONIC, &ev, &timer) == 0);
	check(syscall(SYS_timer_settime, *(int *)&timer, 0, &spec, NULL) == 0);
	own(owned, self);
	check(fcntl(owned[0], F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
	own(group_owned, -group);
}

static void numbers(void)
{
	if (getpid() != self || tid() != self || getpgrp() != group || getsid(0) != session)
		bad("pid %d was %d, tid %d, group %d was %d, session %d was %d", getpid(), self, tid(), getpgrp(), group,
			getsid(0), session);
	if (kill(child, 0) != 0 || getpgid(child) != child || getsid(child) != session)
		bad("child %d: %s", child, strerror(errno));
	if (syscall(SYS_tgkill, self, worker_tid, 0) != 0)
		bad("thread %d: %s", worker_tid, strerror(errno));
	if (fcntl(owned[0], F_GETOWN) != self || fcntl(group_owned[0], F_GETOWN) != -group)
		bad("owners %d and %d", fcntl(owned[0], F_GETOWN), fcntl(group_owned[0], F_GETOWN));
	if (fcntl(gone_owned[0], F_GETOWN) != -dead)
		bad("owner of the group without a leader %d, was %d", fcntl(gone_owned[0], F_GETOWN), -dead);
	if (wrong_thread)
		bad("the timer notified another thread");
}

static void procfs(void)
{
	char text[64] = "", path[128];
	if (readlink("/proc/self", text, sizeof text - 1) < 0 || atoi(text) != self)
		bad("/proc/self is %s, not %d", text, self);
	snprintf(path, sizeof path, "/proc/%d/task/%d/comm", self, worker_tid);
	if (access(path, R_OK) != 0)
		bad("%s: %s", path, strerror(errno));
	snprintf(path, sizeof path, "/proc/%d/stat", child);
	FILE *f = fopen(path, "re");
	int pid = 0, ppid = 0, pgrp = 0;
	if (f == NULL || fscanf(f, "%d (%*[^)]) %*c %d %d", &pid, &ppid, &pgrp) != 3 || pid != child || ppid != self || pgrp != child)
		bad("%s: %d %d %d", path, pid, ppid, pgrp);
	if (f != NULL)
		fclose(f);
}

/* The timer and the file's owner still get their signals. */
static void signals(void)
{
	int before = notified, io = ready_io;
	char c = 0;
	if (write(owned[1], &c, 1) != 1 || read(owned[0], &c, 1) != 1)
		bad("pipe: %s", strerror(errno));
	for (int i = 0; ready_io == io || notified == before; i++) {
		if (i > 2000) {
			bad("no signal: io %d, timer %d", ready_io - io, notified - before);
			return;
		}
		struct timespec ts = {0, 5000000};
		nanosleep(&ts, NULL); /* cut short by SIGIO */
	}
}

static void finish(int leave)
{
	sigset_t set;
	siginfo_t info;
	struct timespec none = {0, 0};
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	if (sigtimedwait(&set, &info, &none) != SIGUSR1 || info.si_pid != child || info.si_value.sival_int != 77)
		bad("pending signal of %d, want %d: %s", info.si_pid, child, strerror(errno));
	int status = -1;
	finishing = 1;
	while (thread_signal_of == 0)
		pause_ms(1);
	if (thread_signal_of != child)
		bad("pending signal of the thread is of %d, want %d", thread_signal_of, child);
	/* An orphan comes to the first process of the namespace, or a subreaper. */
	pid_t middle = fork();
	if (middle == 0) {
		if (fork() == 0)
			pause_ms(20);
		_exit(3);
	}
	if (waitpid(middle, &status, 0) != middle || status != 3 << 8)
		bad("new child %d: status %x", middle, status);
	if (!leave) {
		kill(child, SIGTERM);
		kill(member, SIGTERM);
		if (waitpid(child, &status, 0) != child || status != SIGTERM)
			bad("child %d: status %x: %s", child, status, strerror(errno));
		if (waitpid(member, &status, 0) != member || status != SIGTERM)
			bad("child %d: status %x: %s", member, status, strerror(errno));
	}
	say("finished");
	exit(23);
}

int main(void)
{
	subject_open();
	self = getpid();
	session = getsid(0);
	group = getpgrp();
	start();
	say("ready");
	for (long n = 0;; n++) {
		numbers();
		procfs();
		signals();
		say("tick %ld", n);
		if (asked("break"))
			child = self;
		if (asked("finish"))
			finish(0);
		if (asked("abandon"))
			finish(1);
	}
}
