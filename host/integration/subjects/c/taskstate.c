/*
 * A program that writes down the state of its tasks as text: once into
 * "before", and into "after" when the file "dump" is there. The test compares
 * the two. Some of it is set to values that no program has by accident.
 *
 * With the argument "nobody" it gives up its credentials first.
 */
#include "subject.h"
#include "taskstate.h"

FILE *out;
static volatile sig_atomic_t rings;
static timer_t ringing;

static void on_signal(int sig)
{
	(void)sig;
}

static void on_info(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
}

static void on_ring(int sig)
{
	(void)sig;
	rings++;
}

static void set_signals(void)
{
	struct sigaction a;
	memset(&a, 0, sizeof a);
	a.sa_handler = on_signal;
	a.sa_flags = SA_RESTART | SA_ONSTACK;
	sigaddset(&a.sa_mask, SIGINT);
	sigaddset(&a.sa_mask, SIGRTMIN + 3);
	check(sigaction(SIGUSR1, &a, NULL) == 0);
	a.sa_sigaction = on_info;
	a.sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESETHAND;
	check(sigaction(SIGRTMIN + 1, &a, NULL) == 0);
	a.sa_handler = SIG_IGN;
	a.sa_flags = 0;
	check(sigaction(SIGHUP, &a, NULL) == 0);
	check(sigaction(SIGPIPE, &a, NULL) == 0);
	a.sa_handler = SIG_DFL;
	a.sa_flags = SA_NOCLDWAIT | SA_NOCLDSTOP;
	check(sigaction(SIGCHLD, &a, NULL) == 0);
}

/* Blocks some signals and queues them, to the process and to this thread. */
static void set_pending(void)
{
	sigset_t set;
	union sigval value;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigaddset(&set, SIGRTMAX);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGWINCH);
	check(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	for (int i = 0; i < PENDING; i++) {
		value.sival_int = 1000 + i;
		check(sigqueue(getpid(), SIGRTMIN + 1, value) == 0);
	}
	check(syscall(SYS_tgkill, getpid(), tid(), SIGUSR2) == 0);
	check(kill(getpid(), SIGWINCH) == 0);
}

static void set_timers(void)
{
	struct itimerval it = {{100, 5000}, {5000, 0}};
	struct itimerspec ts = {{77, 123456}, {7000, 0}};
	struct itimerspec fast = {{0, 20000000}, {0, 20000000}};
	struct sigevent ev;
	struct sigaction a;
	timer_t id, gap;

	check(setitimer(ITIMER_REAL, &it, NULL) == 0);
	it.it_interval.tv_sec = 101;
	check(setitimer(ITIMER_VIRTUAL, &it, NULL) == 0);
	it.it_interval.tv_sec = 102;
	check(setitimer(ITIMER_PROF, &it, NULL) == 0);

	memset(&ev, 0, sizeof ev);
	ev.sigev_notify = SIGEV_SIGNAL;
	ev.sigev_signo = SIGRTMIN + 5;
	ev.sigev_value.sival_int = 55;
	check(timer_create(CLOCK_MONOTONIC, &ev, &gap) == 0);
	check(timer_create(CLOCK_REALTIME, &ev, &id) == 0);
	check(timer_settime(id, 0, &ts, NULL) == 0);
	note_timer(id, "realtime signal");
	check(timer_delete(gap) == 0);
	ev.sigev_notify = SIGEV_NONE;
	ts.it_value.tv_sec += now_ns() / 1000000000;
	check(timer_create(CLOCK_MONOTONIC, &ev, &id) == 0);
	check(timer_settime(id, TIMER_ABSTIME, &ts, NULL) == 0);
	note_timer(id, "monotonic none");
	check(timer_create(CLOCK_BOOTTIME, &ev, &id) == 0);
	note_timer(id, "boottime disarmed");

	memset(&a, 0, sizeof a);
	a.sa_handler = on_ring;
	a.sa_flags = SA_RESTART;
	check(sigaction(SIGRTMIN + 6, &a, NULL) == 0);
	ev.sigev_notify = SIGEV_THREAD_ID;
	ev.sigev_signo = SIGRTMIN + 6;
	ev._sigev_un._tid = tid();
	check(timer_create(CLOCK_MONOTONIC, &ev, &ringing) == 0);
	check(timer_settime(ringing, 0, &fast, NULL) == 0);
}

/* The timer with the short interval goes on ringing, in this thread. */
static int check_ringing(void)
{
	sig_atomic_t start = rings;
	for (int i = 0; i < 1000; i++) {
		struct timespec ts = {0, 5000000};
		nanosleep(&ts, NULL);
		if (rings > start + 2)
			return 1;
	}
	bad("the interval timer stopped ringing");
	return 0;
}

static void dump(const char *name, int final)
{
	char temporary[64];
	snprintf(temporary, sizeof temporary, "%s.new", name);
	out = fopen(temporary, "we");
	check(out != NULL);
	dump_ids();
	dump_actions();
	dump_mask("main");
	dump_timers();
	dump_limits();
	dump_credentials();
	dump_scheduling();
	dump_settings();
	dump_threads();
	dump_rseq();
	fprintf(out, "ringing: %d\n", check_ringing());
	dump_pending(final);
	fclose(out);
	check(rename(temporary, name) == 0);
}

int main(int argc, char **argv)
{
	subject_open();
	set_settings();
	set_signals();
	set_altstack();
	start_threads();
	set_timers();
	set_pending();
	if (argc > 1 && strcmp(argv[1], "nobody") == 0)
		become_nobody();
	set_limits();
	dump("before", 0);
	say("ready");
	for (long n = 0;; n++) {
		struct timespec ts = {0, 5000000};
		say("tick %ld", n);
		nanosleep(&ts, NULL);
		if (asked("break"))
			umask(0777);
		if (asked("dump"))
			break;
	}
	dump("after", 1);
	say("dumped");
	for (;;)
		pause();
}
