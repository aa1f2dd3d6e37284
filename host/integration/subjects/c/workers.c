/*
 * A master of root's with workers of another user, as web servers have them:
 * each worker gives up its rights, lowers its limits and verifies both all the
 * time. The master counts what they tell it.
 */
#include "subject.h"
#include <grp.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define WORKERS 4
#define USER 33
#define GROUP 33

static int report[2];

static struct rlimit files(int n) { return (struct rlimit){100 + n, 200 + n}; }

static void become(int n)
{
	gid_t groups[] = {GROUP, 1000 + n};
	struct rlimit nofile = files(n), core = {0, 0}, stack = {1 << 20, 4 << 20};
	check(setrlimit(RLIMIT_NOFILE, &nofile) == 0 && setrlimit(RLIMIT_CORE, &core) == 0);
	check(setrlimit(RLIMIT_STACK, &stack) == 0);
	umask(027);
	check(setgroups(2, groups) == 0 && setgid(GROUP) == 0 && setuid(USER) == 0);
	check(prctl(PR_SET_DUMPABLE, 1) == 0 || 1);
}

static void work(int n)
{
	become(n);
	for (;;) {
		uid_t r, e, s;
		gid_t groups[8];
		struct rlimit nofile, core, stack, want = files(n);
		char ok = 1;
		if (getresuid(&r, &e, &s) != 0 || r != USER || e != USER || s != USER || getgid() != GROUP || getegid() != GROUP)
			ok = 0, bad("worker %d has uids %d %d %d, gid %d", n, r, e, s, getgid());
		if (getgroups(8, groups) != 2 || groups[0] != GROUP || groups[1] != (gid_t)(1000 + n))
			ok = 0, bad("worker %d has groups %d %d", n, groups[0], groups[1]);
		getrlimit(RLIMIT_NOFILE, &nofile);
		getrlimit(RLIMIT_CORE, &core);
		getrlimit(RLIMIT_STACK, &stack);
		if (nofile.rlim_cur != want.rlim_cur || nofile.rlim_max != want.rlim_max || core.rlim_max != 0 ||
		    stack.rlim_cur != 1 << 20 || stack.rlim_max != 4 << 20)
			ok = 0, bad("worker %d has limits %ld %ld %ld", n, (long)nofile.rlim_cur, (long)nofile.rlim_max, (long)core.rlim_max);
		if (setuid(0) == 0 || setgroups(0, NULL) == 0)
			ok = 0, bad("worker %d has rights", n);
		if (umask(027) != 027)
			ok = 0, bad("worker %d has another umask", n);
		if (write(report[1], &ok, 1) != 1)
			_exit(1);
		pause_ms(1);
	}
}

int main(void)
{
	subject_open();
	check(pipe(report) == 0);
	for (int n = 0; n < WORKERS; n++) {
		pid_t pid = fork();
		check(pid >= 0);
		if (pid == 0)
			work(n);
	}
	int reports = 0;
	for (int n = 0;; n++) {
		char ok;
		for (int i = 0; i < WORKERS; i++)
			if (read(report[0], &ok, 1) != 1 || !ok)
				bad("report %d", reports);
			else
				reports++;
		if (getuid() != 0 || geteuid() != 0)
			bad("the master is user %d", getuid());
		if (n == 0)
			say("ready");
		if (asked("break"))
			check(setuid(USER) == 0);
		say("tick %d", n);
	}
}
