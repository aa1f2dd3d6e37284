/*
 * A debugger has left a watchpoint in the debug registers of a thread and gone:
 * every write to a word raises SIGTRAP there, and nowhere else. x86_64 only.
 */
#include "subject.h"

#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>

static volatile uint64_t word, other;
static volatile sig_atomic_t traps;

static void trapped(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	traps += info->si_code == TRAP_HWBKPT;
}

static void set(pid_t pid, int number, uint64_t value)
{
	if (ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + 8 * number, value) != 0)
		_exit(2);
}

static void watch(pid_t pid)
{
	pid_t debugger = fork();
	int status;
	if (debugger == 0) {
		if (ptrace(PTRACE_ATTACH, pid, 0, 0) != 0 || waitpid(pid, &status, __WALL) != pid)
			_exit(1);
		set(pid, 1, (uintptr_t)&word);
		set(pid, 7, 1 << 2 | 1u << 20 | 3u << 22); /* DR1, local, writes, 8 bytes */
		_exit(ptrace(PTRACE_DETACH, pid, 0, 0) == 0 ? 0 : 3);
	}
	check(waitpid(debugger, &status, 0) == debugger && status == 0);
}

static void verify_thread(const char *who, int want)
{
	int before = traps;
	word++;
	if (traps != before + want)
		bad("%s: %d traps, want %d", who, traps - before, want);
	other++;
	if (traps != before + want)
		bad("%s: a trap of another word", who);
}

static volatile unsigned long beats;

static void *unwatched(void *arg)
{
	(void)arg;
	for (;;) {
		word++; /* its traps would be counted, too */
		beats++;
		pause_ms(3);
	}
	return NULL;
}

int main(void)
{
	pthread_t t;
	struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO};
	subject_open();
	check(sigaction(SIGTRAP, &action, NULL) == 0);
	watch(getpid());
	check(pthread_create(&t, NULL, unwatched, NULL) == 0);
	say("ready");
	for (long n = 0;; n++) {
		unsigned long last = beats;
		verify_thread("watched", asked("break") ? 0 : 1);
		while (beats == last)
			pause_ms(1);
		say("tick %ld", n);
		pause_ms(5);
	}
}
