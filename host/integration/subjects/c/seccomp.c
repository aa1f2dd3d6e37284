/*
 * A program under seccomp. Its threads and children have different filters and
 * verify all the time that what is forbidden stays forbidden, in the way in
 * which it was, and that everything else works:
 *
 *   all          a filter that the program was executed with
 *                one that refuses getppid, for all threads at once (TSYNC)
 *                one that ends the process for what firn asks of a task;
 *                with the argument "mild", that refuses it
 *   thread 1     another one that refuses getpgrp
 *   thread 2     another one that raises SIGSYS for umask
 *   nobody       a child without rights and without no_new_privs
 *
 * With the argument "strict" it has no filter, but a child in strict mode.
 * Asked to finish, it has the child do what ends it.
 */
#include "subject.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

enum { THREADS = 3, NOBODY = 65534 };

#define NR BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define ON(n, verdict) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n, 0, 1), BPF_STMT(BPF_RET | BPF_K, verdict)
#define REST BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static volatile int filters[THREADS];
static volatile unsigned long beats[THREADS];
static volatile int go;
static __thread volatile sig_atomic_t traps;
static int broken;

struct child {
	pid_t pid;
	int ask, answer;
};

static void install(struct sock_filter *f, unsigned short n, int flags)
{
	struct sock_fprog prog = {n, f};
	check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog) == 0);
}

#define INSTALL(flags, ...) do { \
		struct sock_filter f[] = {__VA_ARGS__}; \
		install(f, sizeof f / sizeof *f, flags); \
	} while (0)

static void refused(const char *who, const char *what, long got, int error, int want)
{
	if (got != -1 || error != want)
		bad("%s: %s returned %ld (%s), want %s", who, what, got, strerror(error), strerror(want));
}

#define REFUSED(who, nr, want) do { \
		long got = syscall(nr); \
		refused(who, #nr, got, errno, want); \
	} while (0)

static void common(const char *who)
{
	REFUSED(who, SYS_acct, ENOTBLK);
	REFUSED(who, SYS_getppid, broken ? EXDEV + 1 : EXDEV);
	if (syscall(SYS_gettid) <= 0)
		bad("%s: gettid: %s", who, strerror(errno));
}

static void on_trap(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	if (info->si_syscall == SYS_umask)
		traps++;
}

static void *work(void *arg)
{
	long n = (long)arg;
	char who[16];
	sprintf(who, "thread %ld", n);
	while (!go)
		pause_ms(1);
	if (n == 1)
		INSTALL(SECCOMP_FILTER_FLAG_SPEC_ALLOW, NR, ON(SYS_getpgrp, SECCOMP_RET_ERRNO | EDOM), REST);
	if (n == 2)
		INSTALL(SECCOMP_FILTER_FLAG_LOG, NR, ON(SYS_umask, SECCOMP_RET_TRAP), REST);
	for (;; beats[n]++) {
		int before = traps;
		common(who);
		if (n == 1)
			REFUSED(who, SYS_getpgrp, EDOM);
		else if (syscall(SYS_getpgrp) <= 0)
			bad("%s: getpgrp: %s", who, strerror(errno));
		syscall(SYS_umask, 022);
		if (traps - before != (n == 2))
			bad("%s: umask raised SIGSYS %d times", who, (int)traps - before);
		pause_ms(3);
	}
	return NULL;
}

/* What firn asks of a task when it saves it. */
#define NOT_FOR_FIRN(verdict) NR, ON(SYS_prctl, verdict), ON(SYS_personality, verdict), \
	ON(SYS_sigaltstack, verdict), ON(SYS_getitimer, verdict), ON(SYS_capset, verdict), \
	ON(SYS_get_robust_list, verdict), REST

static void strict_child(int in, int out)
{
	char c;
	check(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, NULL) == 0);
	while (read(in, &c, 1) == 1) {
		if (c == 'f')
			syscall(SYS_getpid); /* ends it */
		if (write(out, &c, 1) != 1)
			break;
	}
	syscall(SYS_exit, 1);
}

static void nobody_child(int in, int out)
{
	char c;
	INSTALL(0, NR, ON(SYS_getpgrp, SECCOMP_RET_ERRNO | EL2HLT), ON(SYS_capget, SECCOMP_RET_KILL_PROCESS), REST);
	check(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
	while (read(in, &c, 1) == 1) {
		REFUSED("nobody", SYS_getpgrp, EL2HLT);
		REFUSED("nobody", SYS_acct, ENOTBLK);
		if (getuid() != NOBODY || setuid(0) == 0)
			bad("nobody: has rights");
		if (c == 'f')
			syscall(SYS_capget, NULL, NULL); /* ends it */
		if (write(out, &c, 1) != 1)
			break;
	}
	_exit(1);
}

static struct child start(void (*run)(int, int))
{
	int to[2], from[2];
	struct child c;
	check(pipe(to) == 0 && pipe(from) == 0);
	c.pid = fork();
	check(c.pid >= 0);
	if (c.pid == 0) {
		close(to[1]);
		close(from[0]);
		run(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	c.ask = to[1];
	c.answer = from[0];
	return c;
}

static void ping(const char *who, struct child *c)
{
	char b = 'p';
	if (write(c->ask, &b, 1) != 1 || read(c->answer, &b, 1) != 1 || b != 'p')
		bad("%s: does not answer: %s", who, strerror(errno));
}

static void ends(const char *who, struct child *c, int sig)
{
	int status = 0;
	char b = 'f';
	if (write(c->ask, &b, 1) != 1 || read(c->answer, &b, 1) != 0)
		bad("%s: did what is forbidden", who);
	if (waitpid(c->pid, &status, 0) != c->pid || !WIFSIGNALED(status) || WTERMSIG(status) != sig)
		bad("%s: ended with status %#x, want signal %d", who, status, sig);
}

/* Puts all threads under their filters. */
static void filter_threads(int mild)
{
	for (long n = 1; n < THREADS; n++) {
		pthread_t t;
		check(pthread_create(&t, NULL, work, (void *)n) == 0);
	}
	INSTALL(SECCOMP_FILTER_FLAG_TSYNC, NR, ON(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV), REST);
	if (mild)
		INSTALL(SECCOMP_FILTER_FLAG_TSYNC, NOT_FOR_FIRN(SECCOMP_RET_ERRNO | EACCES));
	else
		INSTALL(SECCOMP_FILTER_FLAG_TSYNC, NOT_FOR_FIRN(SECCOMP_RET_KILL_PROCESS));
	filters[0] = 3;
	go = 1;
}

static void verify_threads(void)
{
	static unsigned long last[THREADS];
	common("main");
	if (syscall(SYS_getpgrp) <= 0)
		bad("main: getpgrp: %s", strerror(errno));
	for (int i = 1; i < THREADS; i++) {
		while (beats[i] == last[i])
			pause_ms(1);
		last[i] = beats[i];
	}
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	int mild = strcmp(kind, "mild") == 0, strict = strcmp(kind, "strict") == 0;
	const char *who = strict ? "strict" : "nobody";
	struct child child = {0};

	subject_open();
	if (!strict && getenv("FILTERED") == NULL) {
		setenv("FILTERED", "1", 1);
		INSTALL(0, NR, ON(SYS_acct, SECCOMP_RET_ERRNO | ENOTBLK), REST);
		execv("/proc/self/exe", argv);
		die("execute: %s", strerror(errno));
	}
	struct sigaction trap = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
	check(sigaction(SIGSYS, &trap, NULL) == 0);
	if (!mild)
		child = start(strict ? strict_child : nobody_child);
	if (!strict)
		filter_threads(mild);
	say("ready");
	for (long tick = 0;; tick++) {
		if (!strict)
			verify_threads();
		if (!mild)
			ping(who, &child);
		say("tick %ld", tick);
		if (asked("break"))
			broken = 1;
		if (asked("finish")) {
			if (!mild)
				ends(who, &child, strict ? SIGKILL : SIGSYS);
			say("finished");
			exit(0);
		}
		pause_ms(10);
	}
}
