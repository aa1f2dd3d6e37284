/*
 * A program with pidfds: of itself, a child that lives, a zombie, children that
 * were reaped, and a thread. It uses them when the file "drain" is there.
 */
#include "subject.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/epoll.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

struct info { /* struct pidfd_info, first version */
	uint64_t mask, cgroup;
	uint32_t pid, tgid, ppid, ids[8];
	int32_t exit_code;
};
#define GET_INFO 0xC040FF0Bu
#define INFO_EXIT 8u

static int self, living, zombie, reaped, killed, thread, set;
static pid_t living_pid, zombie_pid;
static pthread_t other;
static volatile pid_t other_tid;
static volatile int heard;

static int pidfd(pid_t pid, unsigned flags)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, flags);
	check(fd >= 0);
	return fd;
}

static int send_signal(int fd, int signal)
{
	return (int)syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0);
}

static int readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

/* Makes a child that ends, or that waits for a signal. */
static pid_t child(int status)
{
	pid_t pid = fork();
	check(pid >= 0);
	if (pid == 0) {
		if (status >= 0)
			_exit(status);
		for (;;)
			pause();
	}
	return pid;
}

static int exit_code(int fd)
{
	struct info i = {.mask = INFO_EXIT};
	if (ioctl(fd, GET_INFO, &i) != 0 || !(i.mask & INFO_EXIT))
		return -1;
	return i.exit_code;
}

static void hear(int signal)
{
	(void)signal;
	heard = tid();
}

static void *listen_for_signals(void *arg)
{
	(void)arg;
	other_tid = tid();
	for (;;)
		pause();
}

static void set_up(void)
{
	siginfo_t si;
	signal(SIGUSR1, hear);
	check(pthread_create(&other, NULL, listen_for_signals, NULL) == 0);
	while (!other_tid)
		sched_yield();
	self = pidfd(getpid(), 0);
	living_pid = child(-1);
	living = pidfd(living_pid, O_NONBLOCK);
	zombie_pid = child(5);
	zombie = pidfd(zombie_pid, 0);
	pid_t pid = child(7);
	reaped = pidfd(pid, 0);
	check(waitpid(pid, NULL, 0) == pid);
	pid = child(-1);
	killed = pidfd(pid, 0);
	check(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
	check(waitid(P_PID, zombie_pid, &si, WEXITED | WNOWAIT) == 0);
	thread = (int)syscall(SYS_pidfd_open, other_tid, O_EXCL); /* PIDFD_THREAD, Linux 6.9 */
	set = epoll_create1(0);
	check(set >= 0);
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 1};
	check(epoll_ctl(set, EPOLL_CTL_ADD, living, &ev) == 0);
	ev.data.u64 = 2;
	if (thread >= 0)
		check(epoll_ctl(set, EPOLL_CTL_ADD, thread, &ev) == 0);
}

static void drain_thread(void)
{
	if (thread < 0)
		return;
	struct epoll_event ev;
	if (send_signal(thread, SIGUSR1) != 0)
		bad("pidfd of the thread: signal: %s", strerror(errno));
	for (int i = 0; i < 1000 && !heard; i++)
		usleep(1000);
	if (heard != other_tid)
		bad("the signal went to thread %d, not to %d", heard, other_tid);
	if (readable(thread))
		bad("the thread has ended");
	if (!(fcntl(thread, F_GETFL) & O_EXCL))
		bad("the pidfd of the thread has flags %x", fcntl(thread, F_GETFL));
	check(pthread_cancel(other) == 0 && pthread_join(other, NULL) == 0);
	if (epoll_wait(set, &ev, 1, 5000) != 1 || ev.data.u64 != 2)
		bad("epoll does not tell of the end of the thread");
	close(thread);
}

static void drain(void)
{
	siginfo_t si;
	struct epoll_event ev;
	if (send_signal(self, 0) != 0 || readable(self))
		bad("pidfd of itself: %s", strerror(errno));
	if (readable(living) || waitid(P_PIDFD, living, &si, WEXITED) != -1 || errno != EAGAIN)
		bad("pidfd of a child: it lives, and the pidfd does not block: %s", strerror(errno));
	drain_thread();
	if (send_signal(living, SIGTERM) != 0)
		bad("pidfd of a child: signal: %s", strerror(errno));
	if (epoll_wait(set, &ev, 1, 5000) != 1 || ev.data.u64 != 1)
		bad("epoll does not tell of the end of the child");
	memset(&si, 0, sizeof si);
	if (waitid(P_PIDFD, living, &si, WEXITED) != 0 || si.si_pid != living_pid || si.si_status != SIGTERM)
		bad("pidfd of a child: process %d ended by %d", si.si_pid, si.si_status);
	memset(&si, 0, sizeof si);
	if (!readable(zombie) || waitid(P_PIDFD, zombie, &si, WEXITED) != 0 || si.si_pid != zombie_pid || si.si_status != 5)
		bad("pidfd of a zombie: process %d ended with %d: %s", si.si_pid, si.si_status, strerror(errno));
	if (!readable(reaped) || send_signal(reaped, 0) != -1 || errno != ESRCH)
		bad("pidfd of a reaped child: %s", strerror(errno));
	if (waitid(P_PIDFD, reaped, &si, WEXITED) != -1 || errno != ECHILD)
		bad("pidfd of a reaped child: there is something to wait for: %s", strerror(errno));
	int code = exit_code(reaped), signal = exit_code(killed);
	if (code != -1 && (code != 7 << 8 || signal != SIGKILL))
		bad("pidfds of reaped children: status %x and %x", code, signal);
}

int main(int argc, char **argv)
{
	subject_open();
	if (argc > 1 && strcmp(argv[1], "outside") == 0)
		say("outside %d", pidfd(getppid(), 0));
	set_up();
	if (argc > 1 && strcmp(argv[1], "damaged") == 0)
		kill(living_pid, SIGKILL);
	say("ready");
	for (long n = 0; !asked("drain"); n++) {
		say("tick %ld", n);
		pause_ms(10);
	}
	drain();
	say("drained");
	for (;;)
		pause_ms(1000);
}
