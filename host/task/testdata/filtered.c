// A program with a seccomp filter that refuses getppid(2) and ends the program
// for getitimer(2). It prints "ok" every few milliseconds as long as getppid is
// refused, or a line that starts with BAD; SIGUSR1 has it call getitimer.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t asked;

static void ask(int sig) {
	(void)sig;
	asked = 1;
}

int main(void) {
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getitimer, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof filter / sizeof *filter, filter};
	signal(SIGUSR1, ask);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		return 1;
	for (;;) {
		struct itimerval timer;
		struct timespec nap = {0, 3000000};
		if (syscall(SYS_getppid) != -1 || errno != EXDEV)
			printf("BAD getppid is not refused\n");
		if (asked && syscall(SYS_getitimer, ITIMER_REAL, &timer) == 0)
			printf("BAD getitimer is allowed\n");
		printf("ok\n");
		fflush(stdout);
		nanosleep(&nap, NULL);
	}
}
