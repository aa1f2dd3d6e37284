/*
 * Threads that wait in system calls, each of its own kind. No signal ever
 * arrives, so no call may be cut short. Three are excepted: the kernel lets
 * them fail with EINTR whenever a task is stopped and goes on (signal(7),
 * "Interruption of system calls and library functions by stop signals").
 */
#include "subject.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { NAP = 150, SHORTEST = NAP - 1 };

static int quiet[2], fed[2];
static volatile int damage;

static struct timespec nap(void)
{
	struct timespec ts = {0, NAP * 1000000L};
	return ts;
}

/* Each returns 0 if the call ended as it should: by its timeout. */
static int wait_nanosleep(void)
{
	struct timespec ts = nap(), left = {0, 0};
	return nanosleep(&ts, &left);
}

static int wait_clock_relative(void)
{
	struct timespec ts = nap(), left = {0, 0};
	return clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &left);
}

static int wait_clock_absolute(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	uint64_t at = ts.tv_sec * 1000000000ull + ts.tv_nsec + NAP * 1000000ull;
	ts.tv_sec = at / 1000000000;
	ts.tv_nsec = at % 1000000000;
	return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static int wait_poll(void)
{
	struct pollfd p = {quiet[0], POLLIN, 0};
	return poll(&p, 1, NAP);
}

static int wait_select(void)
{
	struct timeval tv = {0, NAP * 1000};
	fd_set set;
	FD_ZERO(&set);
	FD_SET(quiet[0], &set);
	return select(quiet[0] + 1, &set, NULL, NULL, &tv);
}

static int wait_ppoll(void)
{
	struct timespec ts = nap();
	struct pollfd p = {quiet[0], POLLIN, 0};
	sigset_t set;
	sigfillset(&set);
	return ppoll(&p, 1, &ts, &set);
}

static int wait_epoll(void)
{
	static int set;
	struct epoll_event ev = {.events = EPOLLIN};
	if (set == 0) {
		set = epoll_create1(0);
		epoll_ctl(set, EPOLL_CTL_ADD, quiet[0], &ev);
	}
	return epoll_wait(set, &ev, 1, NAP);
}

static int wait_futex(void)
{
	static int word;
	struct timespec ts = nap();
	long r = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &ts, NULL, 0);
	return r == -1 && errno == ETIMEDOUT ? 0 : (int)r;
}

static int wait_signal(void)
{
	struct timespec ts = nap();
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMAX);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	int r = sigtimedwait(&set, NULL, &ts);
	return r == -1 && errno == EAGAIN ? 0 : r;
}

/* Unix sockets with a receive timeout: the call restarts by itself. */
static int wait_receive(void)
{
	static int pair[2];
	char c;
	struct timeval tv = {0, NAP * 1000};
	if (pair[0] == 0) {
		socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
		setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	}
	ssize_t n = recv(pair[0], &c, 1, 0);
	return n == -1 && errno == EAGAIN ? 0 : (int)n;
}

/* These have no timeout: the main thread feeds the pipe, or never does. */
static int wait_read(void)
{
	char c;
	return read(fed[0], &c, 1) == 1 ? 0 : -1;
}

static int wait_forever(void)
{
	char c;
	return read(quiet[0], &c, 1) == 0 ? 0 : -1;
}

static int wait_accept(void)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(addr.sun_path, sizeof addr.sun_path, "accept.sock");
	unlink(addr.sun_path);
	bind(fd, (void *)&addr, sizeof addr);
	listen(fd, 1);
	return accept(fd, NULL, NULL);
}

static int wait_child(void)
{
	pid_t pid = fork();
	if (pid == 0)
		for (;;)
			pause();
	int status;
	return waitpid(pid, &status, 0);
}

/* The child ends with a status, before or after a restore. */
static pid_t napping(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		struct timespec ts = nap();
		_exit(nanosleep(&ts, NULL) == 0 ? 33 : 34);
	}
	return pid;
}

static int wait_reaped(void)
{
	int status = 0;
	pid_t pid = napping();
	return wait4(pid, &status, 0, NULL) == pid && status == 33 << 8 ? 0 : status;
}

static int wait_waitid(void)
{
	siginfo_t info = {0};
	pid_t pid = napping();
	int r = waitid(P_PID, pid, &info, WEXITED);
	return r == 0 && info.si_pid == pid && info.si_status == 33 && info.si_code == CLD_EXITED ? 0 : -1;
}

/* The main thread sends the signal, which is blocked but for the call. */
static volatile sig_atomic_t handled;

static void handle(int sig)
{
	(void)sig;
	handled++;
}

static int wait_suspended(void)
{
	sigset_t set, now;
	int before = handled;
	pthread_sigmask(SIG_BLOCK, NULL, &set);
	sigdelset(&set, SIGUSR2);
	int r = sigsuspend(&set);
	pthread_sigmask(SIG_BLOCK, NULL, &now);
	if (r != -1 || errno != EINTR || handled == before || !sigismember(&now, SIGUSR2))
		return -2;
	return 0;
}

static int wait_pause(void)
{
	return pause();
}

static struct waiter {
	const char *name;
	int (*wait)(void);
	enum { TIMED = 1, ENDLESS = 2, STOPPABLE = 4 } flags;
	volatile unsigned long count;
} waiters[] = {
	{"nanosleep", wait_nanosleep, TIMED, 0},
	{"clock_nanosleep", wait_clock_relative, TIMED, 0},
	{"clock_nanosleep, absolute", wait_clock_absolute, TIMED, 0},
	{"poll", wait_poll, TIMED, 0},
	{"select", wait_select, TIMED, 0},
	{"ppoll", wait_ppoll, TIMED, 0},
	{"epoll_wait", wait_epoll, TIMED | STOPPABLE, 0},
	{"futex", wait_futex, TIMED, 0},
	{"sigtimedwait", wait_signal, TIMED | STOPPABLE, 0},
	{"recv with a timeout", wait_receive, TIMED | STOPPABLE, 0},
	{"read", wait_read, 0, 0},
	{"read for ever", wait_forever, ENDLESS, 0},
	{"accept", wait_accept, ENDLESS, 0},
	{"waitpid", wait_child, ENDLESS, 0},
	{"pause", wait_pause, ENDLESS, 0},
	{"sigsuspend", wait_suspended, 0, 0},
	/* Only with the argument "children", which come and go. */
	{"wait4", wait_reaped, TIMED, 0},
	{"waitid", wait_waitid, TIMED, 0},
};
enum { ALL = sizeof waiters / sizeof *waiters, STEADY = ALL - 2, SUSPENDED = STEADY - 1 };

static void *run(void *arg)
{
	struct waiter *w = arg;
	for (;;) {
		uint64_t start = now_ns();
		errno = 0;
		int r = w->wait();
		uint64_t took = (now_ns() - start) / 1000000;
		if (r == -1 && errno == EINTR && w->flags & STOPPABLE)
			continue;
		if (w->flags & ENDLESS || r != 0)
			bad("%s: returned %d: %s", w->name, r, strerror(errno));
		if ((w->flags & TIMED && took < SHORTEST) || damage)
			bad("%s: took %lu ms, want %d", w->name, took, NAP);
		w->count++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int waiting = argc > 1 && strcmp(argv[1], "children") == 0 ? ALL : STEADY;
	pthread_t t[ALL];
	unsigned long last[ALL] = {0};

	subject_open();
	check(pipe(quiet) == 0 && pipe(fed) == 0);
	struct sigaction action = {.sa_handler = handle};
	sigset_t suspended;
	sigemptyset(&suspended);
	sigaddset(&suspended, SIGUSR2);
	check(sigaction(SIGUSR2, &action, NULL) == 0 && pthread_sigmask(SIG_BLOCK, &suspended, NULL) == 0);
	for (int i = 0; i < waiting; i++)
		check(pthread_create(&t[i], NULL, run, &waiters[i]) == 0);
	say("ready");
	for (long n = 0;; n++) {
		if (write(fed[1], "x", 1) != 1)
			bad("write: %s", strerror(errno));
		pthread_kill(t[SUSPENDED], SIGUSR2);
		for (int i = 0; i < waiting; i++) {
			while (!(waiters[i].flags & ENDLESS) && waiters[i].count == last[i])
				pause_ms(5);
			last[i] = waiters[i].count;
		}
		say("tick %ld", n);
		if (asked("break"))
			damage = 1;
	}
}
