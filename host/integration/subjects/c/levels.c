/*
 * A tree in PID namespaces: "levels N" creates N namespaces, each inside the one
 * before, with everything that has to do with numbers in each: threads, children,
 * orphans, groups, sessions, zombies, owners of files, timers, mutexes, signals
 * that are pending, and the first process's protection from its own children.
 * Every process finds its old numbers, in its own namespace.
 *
 * It is to be the first process of a namespace itself ("first" in the log), or
 * not. Only the outermost process writes ticks, when all others go on, too.
 */
#include "subject.h"

#include <sys/prctl.h>

enum { NOTIFY = 40, ROLES = 12, MOST = 4 * ROLES };

/* Shared by all processes: what each has found to be right how often. */
static struct shared {
	long rounds[MOST];
	int roles;
	int finish, finished;
} *shared;

static int level, levels;
static pid_t self, parent, group, session, child, zombie, orphan, adopted, worker_tid, sender;
static pid_t nested; /* the next level's creator */
static pid_t root;   /* 0 further inside, where the number can be another's */
static int owned[2], leaving, inside;
static char proc_self[32];
static volatile sig_atomic_t notified;
static pthread_mutex_t robust;

static void on_notify(int sig)
{
	(void)sig;
	notified++;
	if (tid() != worker_tid)
		bad("level %d: the timer notified thread %d, not %d", level, tid(), worker_tid);
}

static int role(void)
{
	int r = __atomic_fetch_add(&shared->roles, 1, __ATOMIC_SEQ_CST);
	check(r < MOST);
	return r;
}

static void same(const char *what, long now, long was)
{
	if (now != was)
		bad("level %d process %d: %s is %ld, was %ld", level, self, what, now, was);
}

static void remember(void)
{
	self = getpid();
	parent = getppid();
	group = getpgrp();
	session = getsid(0);
	int n = readlink("/proc/self", proc_self, sizeof proc_self - 1);
	proc_self[n > 0 ? n : 0] = 0;
}

static void numbers(void)
{
	char text[32] = "";
	same("getpid", getpid(), self);
	same("gettid", tid(), self);
	/* The root has its parent from who restored it. */
	if (!shared->finish && self != root) /* then parents end */
		same("getppid", getppid(), parent);
	same("group", getpgrp(), group);
	same("session", getsid(0), session);
	/* With the /proc of the host, numbers in it are the host's. */
	int n = readlink("/proc/self", text, sizeof text - 1);
	if (getenv("OWN_PROC") != NULL && (n < 0 || strcmp(text, proc_self) != 0))
		bad("level %d: /proc/self is %s, was %s", level, text, proc_self);
}

/* A process that only verifies its own numbers; of the first process it is a
 * child, a grandchild, an orphan. */
__attribute__((noreturn)) static void member(void)
{
	remember();
	for (int r = role();;) {
		numbers();
		if (inside)
			kill(1, SIGKILL); /* harms nobody: it comes from inside */
		shared->rounds[r]++;
		pause_ms(5);
	}
}

static void *worker(void *arg)
{
	sigset_t set;
	(void)arg;
	sigfillset(&set);
	sigdelset(&set, NOTIFY);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	check(pthread_mutex_lock(&robust) == 0);
	__atomic_store_n(&worker_tid, tid(), __ATOMIC_SEQ_CST);
	while (!leaving) {
		if (tid() != worker_tid)
			bad("level %d: thread %d was %d", level, tid(), worker_tid);
		struct timespec ts = {0, 5000000};
		nanosleep(&ts, NULL);
	}
	return NULL; /* with the mutex: the kernel marks it, by the number of the thread */
}

/* Waits until a process has written its number. */
static pid_t told(int fd)
{
	pid_t pid = 0;
	check(read(fd, &pid, sizeof pid) == sizeof pid);
	return pid;
}

/* Leaves a process behind, whose parent ends. With sessions the orphan stays in
 * the session of a process that is further down in the tree. */
static pid_t leave(int sessions)
{
	int fds[2], status;
	check(pipe(fds) == 0);
	pid_t middle = fork();
	if (middle == 0) {
		pid_t leader = sessions ? fork() : 0;
		if (leader != 0)
			member();
		if (sessions)
			check(setsid() == getpid());
		pid_t last = fork();
		pid_t creator = getpid();
		if (last == 0 && fork() == 0) {
			while (getppid() == creator)
				pause_ms(1);
			pid_t me = getpid();
			check(write(fds[1], &me, sizeof me) == sizeof me);
			close(fds[0]);
			close(fds[1]);
			member();
		}
		if (last == 0)
			_exit(0);
		check(waitpid(last, &status, 0) == last);
		if (sessions) {
			close(fds[0]);
			close(fds[1]);
			member();
		}
		_exit(0);
	}
	pid_t got = told(fds[0]);
	close(fds[0]);
	close(fds[1]);
	if (!sessions)
		check(waitpid(middle, &status, 0) == middle);
	else
		sender = middle; /* ended at the finish, with what is below it */
	return got;
}

static void timers(void)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = NOTIFY};
	ev._sigev_un._tid = worker_tid;
	struct itimerspec spec = {{0, 5000000}, {0, 5000000}};
	timer_t timer;
	clockid_t clock;
	check(syscall(SYS_timer_create, CLOCK_MONOTONIC, &ev, &timer) == 0);
	check(syscall(SYS_timer_settime, *(int *)&timer, 0, &spec, NULL) == 0);
	/* One that names the process by its number. */
	check(clock_getcpuclockid(getpid(), &clock) == 0);
	ev.sigev_notify = SIGEV_NONE;
	check(syscall(SYS_timer_create, clock, &ev, &timer) == 0);
}

static void start(int first)
{
	sigset_t set;
	pthread_t t;
	pthread_mutexattr_t attr;
	struct sigaction sa = {.sa_handler = on_notify, .sa_flags = SA_RESTART};
	remember();
	sigaction(NOTIFY, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, NOTIFY);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	check(pthread_create(&t, NULL, worker, NULL) == 0);
	while (__atomic_load_n(&worker_tid, __ATOMIC_SEQ_CST) == 0)
		pause_ms(1);
	if ((zombie = fork()) == 0)
		_exit(7);
	if ((child = fork()) == 0) {
		setpgid(0, 0);
		union sigval v = {.sival_int = 77};
		check(sigqueue(getppid(), SIGUSR1, v) == 0);
		member();
	}
	while (getpgid(child) != child)
		pause_ms(1);
	if (first) {
		orphan = leave(0);
		adopted = leave(1);
	}
	check(pipe2(owned, O_NONBLOCK) == 0);
	check(fcntl(owned[0], F_SETOWN, child) == 0);
	check(fcntl(owned[1], F_SETOWN, -child) == 0);
	timers();
	siginfo_t info = {0};
	check(waitid(P_PID, zombie, &info, WEXITED | WNOWAIT) == 0);
}

static void others(void)
{
	same("getpgid of the child", getpgid(child), child);
	same("getsid of the child", getsid(child), session);
	same("F_GETOWN", fcntl(owned[0], F_GETOWN), child);
	same("F_GETOWN of a group", fcntl(owned[1], F_GETOWN), -child);
	same("kill of the zombie", kill(zombie, 0), 0);
	if (orphan != 0) {
		same("kill of the orphan", kill(orphan, 0), 0);
		same("kill of the orphan in a session", kill(adopted, 0), 0);
	}
	if (syscall(SYS_tgkill, self, worker_tid, 0) != 0)
		bad("level %d: thread %d: %s", level, worker_tid, strerror(errno));
}

static void reap(pid_t pid, int want)
{
	int status = -1;
	if (waitpid(pid, &status, 0) != pid || status != want)
		bad("level %d: process %d has status %x, want %x: %s", level, pid, status, want, strerror(errno));
}

static void finish(void)
{
	sigset_t set;
	siginfo_t info = {0};
	struct timespec none = {0, 0};
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	if (sigtimedwait(&set, &info, &none) != SIGUSR1 || info.si_pid != child || info.si_value.sival_int != 77)
		bad("level %d: pending signal of %d, want %d", level, info.si_pid, child);
	int before = notified;
	for (int i = 0; notified == before; i++) {
		if (i > 2000) {
			bad("level %d: the timer has stopped", level);
			break;
		}
		pause_ms(5);
	}
	same("pthread_mutex_trylock", pthread_mutex_trylock(&robust), EBUSY);
	leaving = 1;
	same("pthread_mutex_lock of a dead thread", pthread_mutex_lock(&robust), EOWNERDEAD);
	reap(zombie, 7 << 8);
	kill(child, SIGTERM);
	reap(child, SIGTERM);
	if (self == 1) { /* protected from what is inside */
		kill(1, SIGSTOP);
		kill(1, SIGTERM);
	}
	if (orphan == 0)
		return;
	for (int i = 0; i < 2; i++) {
		pid_t pid = i == 0 ? orphan : adopted;
		kill(pid, SIGTERM);
		if (self == 1)
			reap(pid, SIGTERM);
	}
	kill(sender, SIGTERM);
	reap(sender, SIGTERM);
}

static int run(void);

/* Creates the next level: the first process of a namespace, whose creator stays
 * and has its children be born there. */
static void descend(void)
{
	if ((nested = fork()) != 0)
		return;
	int status;
	check(unshare(CLONE_NEWPID) == 0);
	remember();
	pid_t first = fork();
	check(first >= 0);
	if (first == 0) {
		level++;
		worker_tid = root = 0;
		_exit(run());
	}
	pid_t second = fork(); /* in the same namespace, with a parent outside */
	if (second == 0) {
		inside = 1;
		root = 0;
		member();
	}
	for (int r = role(); !shared->finish;) {
		numbers();
		shared->rounds[r]++;
		pause_ms(5);
	}
	/* The first process does not end before all others are reaped. */
	reap(second, SIGKILL);
	if (waitpid(first, &status, 0) != first || status != 23 << 8)
		bad("level %d ended with %x", level + 1, status);
	_exit(5);
}

static int run(void)
{
	inside = getpid() == 1;
	start(inside);
	if (level < levels)
		descend();
	if (level == 0)
		return 0;
	for (int r = role(); !shared->finish;) {
		numbers();
		others();
		shared->rounds[r]++;
		pause_ms(5);
	}
	if (nested != 0)
		reap(nested, 5 << 8);
	finish();
	return 23;
}

/* Every other process has found itself right once more. */
static void everybody(void)
{
	long before[MOST];
	memcpy(before, shared->rounds, sizeof before);
	for (int i = 0, roles = shared->roles; i < roles;) {
		if (__atomic_load_n(&shared->rounds[i], __ATOMIC_SEQ_CST) > before[i])
			i++;
		else
			pause_ms(1);
	}
}

int main(int argc, char **argv)
{
	subject_open();
	if (argc > 1)
		levels = atoi(argv[1]);
	root = getpid();
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(shared != MAP_FAILED);
	run();
	/* All of them: five below a first process, itself, its creator, and a child of
	 * that. */
	int want = (self == 1 ? 5 : 1) + levels * (5 + 1 + 2);
	while (__atomic_load_n(&shared->roles, __ATOMIC_SEQ_CST) < want)
		pause_ms(1);
	say("ready");
	for (long n = 0;; n++) {
		numbers();
		others();
		everybody();
		say("tick %ld", n);
		if (asked("break"))
			parent++;
		if (asked("finish")) {
			shared->finish = 1;
			if (nested != 0)
				reap(nested, 5 << 8);
			finish();
			say("finished");
			return 23;
		}
	}
}
