/*
 * A debugger has left a watchpoint in the debug registers of a thread and gone:
 * every write to a word raises SIGTRAP there, and nowhere else. A virtual machine
 * may have registers that do nothing: then they are only read. Asked to "look",
 * another debugger reads them. x86_64 only.
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

#define CONTROL (1u << 2 | 1u << 20 | 3u << 22) /* DR1, local, writes, 8 bytes */
#define RESERVED 0x400                          /* always set */

static uint64_t get(pid_t pid, int number)
{
	return ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg) + 8 * number, 0);
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
		set(pid, 7, CONTROL);
		_exit(ptrace(PTRACE_DETACH, pid, 0, 0) == 0 ? 0 : 3);
	}
	check(waitpid(debugger, &status, 0) == debugger && status == 0);
}

/* A debugger looks at the registers of a thread. */
static void look(const char *who, pid_t tid, uint64_t address, uint64_t control)
{
	pid_t debugger = fork();
	int status;
	if (debugger == 0) {
		if (ptrace(PTRACE_ATTACH, tid, 0, 0) != 0 || waitpid(tid, &status, __WALL) != tid)
			_exit(1);
		uint64_t is = get(tid, 1), enabled = get(tid, 7);
		/* A new thread inherits the control register, but nothing to watch. */
		if (is != address || (address && (enabled & ~RESERVED) != control))
			bad("%s: debug registers %lx and %lx, want %lx and %lx", who, is, enabled, address, control);
		_exit(ptrace(PTRACE_DETACH, tid, 0, 0) == 0 ? 0 : 3);
	}
	if (waitpid(debugger, &status, 0) != debugger || status != 0)
		bad("%s: debugger ended with %x", who, status);
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
static volatile pid_t other_thread;

static void *unwatched(void *arg)
{
	(void)arg;
	other_thread = tid();
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
	int before = traps, looked = 0;
	word++;
	int delivered = traps - before;
	while (other_thread == 0)
		pause_ms(1);
	say("ready");
	for (long n = 0;; n++) {
		unsigned long last = beats;
		verify_thread("watched", asked("break") ? !delivered : delivered);
		if (asked("look") && !looked) {
			look("watched", getpid(), (uintptr_t)&word, CONTROL);
			look("unwatched", other_thread, 0, 0);
			say("looked");
		}
		looked = asked("look");
		while (beats == last)
			pause_ms(1);
		say("tick %ld", n);
		pause_ms(5);
	}
}
