/*
 * A program with files that stand for events and locks: timerfd, signalfd,
 * record locks and flock. It touches none of them until the file "drain" is
 * there.
 */
#include "subject.h"

#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int leased;
static int far, expired, disarmed, ticking, signals, set, locked, flocked;
static pid_t holder, waiter;

static int timer(int clock, int flags, long first_ns, long every_ns)
{
	struct itimerspec it = {{every_ns / 1000000000, every_ns % 1000000000}, {first_ns / 1000000000, first_ns % 1000000000}};
	int fd = timerfd_create(clock, flags);
	check(fd >= 0);
	if (first_ns)
		check(timerfd_settime(fd, 0, &it, NULL) == 0);
	return fd;
}

static void set_timers(void)
{
	far = timer(CLOCK_MONOTONIC, TFD_NONBLOCK, 5000000000000L, 7000000000L);
	disarmed = timer(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC, 0, 0);
	expired = timer(CLOCK_MONOTONIC, TFD_NONBLOCK, 1000000, 0);
	ticking = timer(CLOCK_BOOTTIME, TFD_NONBLOCK, 5000000, 5000000);
	pause_ms(20);
}

static void drain_timers(void)
{
	struct itimerspec it;
	uint64_t n = 0;
	if (timerfd_gettime(far, &it) != 0 || it.it_value.tv_sec > 5000 || it.it_value.tv_sec < 4000 || it.it_interval.tv_sec != 7)
		bad("timerfd: %ld s left, every %ld s", it.it_value.tv_sec, it.it_interval.tv_sec);
	if (read(far, &n, 8) != -1 || errno != EAGAIN)
		bad("timerfd: expired early");
	if (timerfd_gettime(disarmed, &it) != 0 || it.it_value.tv_sec || it.it_value.tv_nsec)
		bad("timerfd: armed by itself");
	if (read(expired, &n, 8) != 8 || n != 1)
		bad("timerfd: expired %lu times, want 1", n);
	if (read(expired, &n, 8) != -1 || errno != EAGAIN)
		bad("timerfd: expired again");
	for (int i = 0; i < 3; i++) {
		pause_ms(20);
		if (read(ticking, &n, 8) != 8 || n < 1)
			bad("timerfd: does not tick: %s", strerror(errno));
	}
}

static void set_signals(void)
{
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMIN + 2);
	check(sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
	signals = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	set = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 12};
	check(signals >= 0 && set >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, signals, &ev) == 0);
	check(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 77}) == 0);
}

static void drain_signals(void)
{
	struct signalfd_siginfo info;
	struct epoll_event ev;
	if (epoll_wait(set, &ev, 1, 1000) != 1 || ev.data.u64 != 12)
		bad("epoll: the signalfd is not ready");
	if (read(signals, &info, sizeof info) != sizeof info || info.ssi_signo != (uint32_t)SIGRTMIN + 2 || info.ssi_int != 77)
		bad("signalfd: signal %u value %d", info.ssi_signo, info.ssi_int);
	kill(getpid(), SIGUSR1);
	if (read(signals, &info, sizeof info) != sizeof info || info.ssi_signo != SIGUSR1)
		bad("signalfd: a new signal does not arrive");
}

/* A child holds locks as well; who holds what is asked by trying. */
static void set_locks(void)
{
	locked = open("locked", O_RDWR | O_CREAT, 0644);
	flocked = open("flocked", O_RDWR | O_CREAT, 0644);
	check(locked >= 0 && flocked >= 0);
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
	check(fcntl(locked, F_SETLK, &l) == 0);
	check(flock(flocked, LOCK_EX | LOCK_NB) == 0);
	leased = open("leased", O_RDONLY | O_CREAT, 0644);
	check(leased >= 0 && fcntl(leased, F_SETLEASE, F_RDLCK) == 0 && fcntl(leased, F_SETSIG, SIGRTMIN + 3) == 0);
	waiter = fork();
	check(waiter >= 0);
	if (waiter == 0) {
		int again = open("flocked", O_RDWR);
		say("child waits");
		if (flock(again, LOCK_EX) != 0) /* as long as the parent has it */
			bad("flock of the child: %s", strerror(errno));
		_exit(44);
	}
	holder = fork();
	check(holder >= 0);
	if (holder == 0) {
		l.l_type = F_RDLCK;
		l.l_start = 100;
		check(fcntl(locked, F_SETLK, &l) == 0);
		say("child locked");
		for (;;)
			pause();
	}
	while (l.l_type = F_WRLCK, l.l_start = 100, fcntl(locked, F_GETLK, &l), l.l_type == F_UNLCK)
		pause_ms(1);
}

/* Somebody opens the file for writing: the lease must be given up first. */
static void drain_lease(void)
{
	sigset_t mask;
	siginfo_t info;
	struct timespec limit = {10, 0};
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + 3);
	check(sigprocmask(SIG_BLOCK, &mask, NULL) == 0);
	if (fcntl(leased, F_GETLEASE) != F_RDLCK)
		bad("lease: is %d", fcntl(leased, F_GETLEASE));
	pid_t writer = fork();
	if (writer == 0)
		_exit(open("leased", O_WRONLY) >= 0 ? 55 : 56);
	if (sigtimedwait(&mask, &info, &limit) != SIGRTMIN + 3 || info.si_fd != leased)
		bad("lease: no signal that it is to be broken: %s", strerror(errno));
	check(fcntl(leased, F_SETLEASE, F_UNLCK) == 0);
	int status = 0;
	if (waitpid(writer, &status, 0) != writer || status != 55 << 8)
		bad("lease: the writer ends with %x", status);
}

static void drain_locks(void)
{
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 5};
	if (fcntl(locked, F_GETLK, &l) != 0 || l.l_type != F_RDLCK || l.l_pid != holder)
		bad("record lock of the child: type %d of process %d", l.l_type, l.l_pid);
	pid_t other = fork();
	if (other == 0) {
		l = (struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
		if (fcntl(locked, F_GETLK, &l) != 0 || l.l_type != F_WRLCK || l.l_pid != getppid() || l.l_start != 10 || l.l_len != 5)
			bad("record lock: type %d of process %d at %ld", l.l_type, l.l_pid, (long)l.l_start);
		int again = open("flocked", O_RDWR);
		if (flock(again, LOCK_EX | LOCK_NB) != -1 || errno != EWOULDBLOCK)
			bad("flock is not held");
		_exit(0);
	}
	waitpid(other, NULL, 0);
	drain_lease();
	int status = 0;
	if (waitpid(waiter, &status, WNOHANG) != 0)
		bad("flock: the waiter has it, status %x", status);
	check(flock(flocked, LOCK_UN) == 0);
	if (waitpid(waiter, &status, 0) != waiter || status != 44 << 8)
		bad("flock: the waiter does not get it, status %x", status);
	kill(holder, SIGKILL);
	waitpid(holder, NULL, 0);
}

int main(int argc, char **argv)
{
	subject_open();
	set_timers();
	set_signals();
	if (argc > 1 && strcmp(argv[1], "locks") == 0)
		set_locks();
	say("ready");
	for (long n = 0; !asked("drain"); n++) {
		say("tick %ld", n);
		pause_ms(10);
	}
	if (asked("break"))
		timerfd_settime(disarmed, 0, &(struct itimerspec){{0, 0}, {9, 0}}, NULL);
	drain_timers();
	drain_signals();
	if (holder)
		drain_locks();
	say("drained");
	for (;;)
		pause_ms(1000);
}
