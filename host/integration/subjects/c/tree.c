/*
 * A tree of processes: sessions, process groups, zombies, a stopped process,
 * an orphan that came to a subreaper. Every process verifies who it is and
 * that it moves; the root verifies the others and reaps them at the end.
 *
 * With the argument "leaderless" the leader of the group ends: the group goes
 * on with a member, under an id that no process has.
 */
#include "subject.h"

#include <sys/prctl.h>

enum { ROOT, SESSION, GROUP, MEMBER, STOPPED, REAPER, ORPHAN, PROCESSES };

static const char *names[] = {"root", "session leader", "group leader", "group member", "stopped", "subreaper", "orphan"};

struct entry {
	volatile pid_t pid, parent, group, session;
	volatile unsigned long beats;
	volatile int leave;
};

static struct entry *table;
static pid_t dead_exited, dead_killed;
static int leaderless;

static void record(int who)
{
	struct entry *e = &table[who];
	e->parent = getppid();
	e->group = getpgrp();
	e->session = getsid(0);
	__atomic_store_n(&e->pid, getpid(), __ATOMIC_SEQ_CST);
}

static void same(int who)
{
	struct entry *e = &table[who];
	if (e->pid != getpid() || e->parent != getppid() || e->group != getpgrp() || e->session != getsid(0))
		bad("%s: pid %d was %d, parent %d was %d, group %d was %d, session %d was %d", names[who], getpid(), e->pid,
			getppid(), e->parent, getpgrp(), e->group, getsid(0), e->session);
}

static void live(int who)
{
	struct entry *e = &table[who];
	record(who);
	while (!e->leave) {
		same(who);
		e->beats++;
		pause_ms(3);
	}
	_exit(50 + who);
}

static pid_t spawn(void)
{
	pid_t pid = fork();
	check(pid >= 0);
	return pid;
}

static void wait_recorded(int who)
{
	while (table[who].pid == 0)
		pause_ms(1);
}

static void session_main(void)
{
	setsid();
	if (spawn() == 0) {
		setpgid(0, 0);
		live(GROUP);
	}
	wait_recorded(GROUP);
	pid_t member = spawn();
	if (member == 0) {
		setpgid(0, table[GROUP].pid);
		live(MEMBER);
	}
	if (leaderless) {
		wait_recorded(MEMBER);
		table[GROUP].leave = 1;
		waitpid(table[GROUP].pid, NULL, 0);
	}
	live(SESSION);
}

static void reaper_main(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid_t middle = spawn();
	if (middle == 0) {
		if (spawn() == 0) {
			while (getppid() != table[REAPER].pid)
				pause_ms(1);
			live(ORPHAN);
		}
		_exit(0);
	}
	record(REAPER);
	waitpid(middle, NULL, 0);
	live(REAPER);
}

static void start(void)
{
	if (spawn() == 0)
		session_main();
	if (spawn() == 0)
		reaper_main();
	pid_t stopped = spawn();
	if (stopped == 0)
		live(STOPPED);
	for (int i = SESSION; i < PROCESSES; i++)
		wait_recorded(i);
	kill(stopped, SIGSTOP);
	waitpid(stopped, NULL, WUNTRACED);
	dead_exited = spawn();
	if (dead_exited == 0)
		_exit(7);
	dead_killed = spawn();
	if (dead_killed == 0)
		for (;;)
			pause();
	kill(dead_killed, SIGKILL);
	siginfo_t info;
	waitid(P_PID, dead_exited, &info, WEXITED | WNOWAIT);
	waitid(P_PID, dead_killed, &info, WEXITED | WNOWAIT);
}

static void reap(const char *name, pid_t pid, int want)
{
	int status = -1;
	if (waitpid(pid, &status, 0) != pid || status != want)
		bad("%s: wait status %x (%s), want %x", name, status, strerror(errno), want);
}

static void finish(void)
{
	unsigned long beats = table[STOPPED].beats;
	pause_ms(50);
	if (table[STOPPED].beats != beats)
		bad("the stopped process runs");
	reap("exited", dead_exited, 7 << 8);
	reap("killed", dead_killed, SIGKILL);
	for (int i = SESSION; i < PROCESSES; i++)
		table[i].leave = 1;
	kill(table[STOPPED].pid, SIGCONT);
	reap("stopped", table[STOPPED].pid, (50 + STOPPED) << 8);
	reap("session leader", table[SESSION].pid, (50 + SESSION) << 8);
	reap("subreaper", table[REAPER].pid, (50 + REAPER) << 8);
	say("finished");
	exit(21);
}

int main(int argc, char **argv)
{
	unsigned long last[PROCESSES] = {0};
	leaderless = argc > 1 && strcmp(argv[1], "leaderless") == 0;
	subject_open();
	table = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(table != MAP_FAILED);
	record(ROOT);
	start();
	say("ready");
	for (long n = 0;; n++) {
		/* The root's parent is whoever restored it. */
		table[ROOT].parent = getppid();
		same(ROOT);
		for (int i = SESSION; i < PROCESSES; i++) {
			if (i == STOPPED || table[i].leave)
				continue;
			while (table[i].beats == last[i])
				pause_ms(1);
			last[i] = table[i].beats;
		}
		say("tick %ld", n);
		if (asked("break"))
			setpgid(table[REAPER].pid, table[REAPER].pid);
		if (asked("finish"))
			finish();
		pause_ms(10);
	}
}
