/*
 * Relatives that are seldom: a daemon that was forked twice, in a session
 * without leader; a process group that was stopped as a whole, and a member of
 * another one that was stopped alone, by SIGTSTP; a process that was traced and
 * left, and one that was left stopped. Asked to "finish", the root continues who
 * is stopped, and reaps all with the statuses that they should have.
 */
#include "subject.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>

enum { DAEMON, LEADER, MEMBER, ALONE, BESIDE, LEFT, LEFT_STOPPED, RELATIVES };

static const char *names[] = {"daemon", "stopped leader", "stopped member", "stopped alone", "beside it", "left by a tracer", "left stopped"};
static const int stopped[RELATIVES] = {[LEADER] = SIGSTOP, [MEMBER] = SIGSTOP, [ALONE] = SIGTSTP, [LEFT_STOPPED] = SIGSTOP};

static struct entry {
	volatile pid_t pid, parent, group, session;
	volatile unsigned long beats;
	volatile int leave;
} *table;

static void live(int who)
{
	struct entry *e = &table[who];
	e->group = getpgrp(), e->session = getsid(0);
	__atomic_store_n(&e->pid, getpid(), __ATOMIC_SEQ_CST);
	while (!e->leave) {
		if (getpid() != e->pid || getpgrp() != e->group || getsid(0) != e->session || (e->parent && getppid() != e->parent))
			bad("%s is %d, was %d; parent %d, was %d; group %d, was %d; session %d, was %d", names[who], getpid(), e->pid,
				getppid(), e->parent, getpgrp(), e->group, getsid(0), e->session);
		e->beats++;
		pause_ms(2);
	}
	_exit(60 + who);
}

static pid_t start(int who, pid_t group)
{
	pid_t pid = fork();
	check(pid >= 0);
	if (pid == 0) {
		setpgid(0, group);
		live(who);
	}
	while (table[who].pid == 0)
		pause_ms(1);
	table[who].parent = getpid();
	return pid;
}

static void await_stop(pid_t pid, int sig)
{
	siginfo_t info;
	check(waitid(P_PID, pid, &info, WSTOPPED) == 0 && info.si_status == sig);
}

static void start_daemon(void)
{
	pid_t first = fork();
	if (first == 0) {
		setsid();
		if (fork() == 0)
			live(DAEMON);
		_exit(0);
	}
	check(waitpid(first, NULL, 0) == first);
	while (table[DAEMON].pid == 0 || table[DAEMON].beats < 3)
		pause_ms(1);
	table[DAEMON].parent = getpid();
	check(table[DAEMON].session == first && kill(first, 0) != 0);
}

static void trace_and_leave(pid_t pid, int sig)
{
	pid_t tracer = fork();
	if (tracer == 0) {
		int status;
		if (ptrace(PTRACE_ATTACH, pid, 0, 0) != 0 || waitpid(pid, &status, 0) != pid || ptrace(PTRACE_DETACH, pid, 0, sig) != 0)
			_exit(1);
		_exit(0);
	}
	int status;
	check(waitpid(tracer, &status, 0) == tracer && status == 0);
	if (sig)
		await_stop(pid, sig);
}

static void start_all(void)
{
	check(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	start_daemon();
	pid_t leader = start(LEADER, 0), member = start(MEMBER, leader);
	check(kill(-leader, SIGSTOP) == 0);
	await_stop(leader, SIGSTOP);
	await_stop(member, SIGSTOP);
	pid_t alone = start(ALONE, 0);
	start(BESIDE, alone);
	check(kill(alone, SIGTSTP) == 0);
	await_stop(alone, SIGTSTP);
	trace_and_leave(start(LEFT, 0), 0);
	trace_and_leave(start(LEFT_STOPPED, 0), SIGSTOP);
}

static char state(pid_t pid)
{
	char path[64], text[512] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	close(fd);
	char *end = n > 0 ? strrchr(text, ')') : NULL;
	return end ? end[2] : '?';
}

static void look(unsigned long *last)
{
	for (int i = 0; i < RELATIVES; i++) {
		struct entry *e = &table[i];
		if (stopped[i]) {
			/* After a stop by a tracer it takes a moment to be stopped again. */
			char now = state(e->pid);
			for (int n = 0; n < 2000 && now != 'T'; n++) {
				pause_ms(1);
				now = state(e->pid);
			}
			if (now != 'T')
				bad("%s is in state %c", names[i], now);
			if (last[i] && e->beats != last[i])
				bad("%s has moved", names[i]);
		} else {
			for (int n = 0; n < 2000 && e->beats == last[i]; n++)
				pause_ms(1);
			if (e->beats == last[i])
				bad("%s does not move", names[i]);
		}
		last[i] = e->beats;
	}
}

static void finish(void)
{
	for (int i = 0; i < RELATIVES; i++) {
		int status = 0;
		siginfo_t info = {0};
		table[i].leave = 1;
		if (stopped[i] && kill(table[i].pid, SIGCONT) != 0)
			bad("continue %s: %s", names[i], strerror(errno));
		if (stopped[i] && (waitid(P_PID, table[i].pid, &info, WCONTINUED | WEXITED | WNOWAIT) != 0))
			bad("%s: %s", names[i], strerror(errno));
		if (waitpid(table[i].pid, &status, 0) != table[i].pid || status != (60 + i) << 8)
			bad("%s ended with status %x", names[i], status);
	}
	say("finished");
	exit(0);
}

int main(void)
{
	unsigned long last[RELATIVES] = {0};
	subject_open();
	table = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(table != MAP_FAILED);
	start_all();
	say("ready");
	for (long n = 0;; n++) {
		look(last);
		say("tick %ld", n);
		if (asked("break"))
			kill(table[ALONE].pid, SIGCONT);
		if (asked("finish"))
			finish();
		pause_ms(5);
	}
}
