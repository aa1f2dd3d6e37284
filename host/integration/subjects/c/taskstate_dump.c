/* Writes the state of the tasks as text, for taskstate.c. */
#include "subject.h"
#include "taskstate.h"

#include <linux/capability.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { THREADS = 3, TIMERS = 8 };

static struct {
	timer_t id;
	const char *name;
} timers[TIMERS];
static int timer_count;

static struct {
	pthread_t thread;
	pid_t tid;
	volatile int request, answered;
} threads[THREADS];

/* sigaction as the kernel has it, restorer included. */
struct kernel_action {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

void dump_ids(void)
{
	fprintf(out, "pid %d pgid %d sid %d tid %d\n", getpid(), getpgrp(), getsid(0), tid());
	char path[4096];
	fprintf(out, "cwd %s\n", getcwd(path, sizeof path));
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	fprintf(out, "exe %.*s\n", (int)(n < 0 ? 0 : n), path);
	n = readlink("/proc/self/root", path, sizeof path - 1);
	fprintf(out, "root %.*s\n", (int)(n < 0 ? 0 : n), path);
	static const char *files[] = {"cmdline", "environ", "auxv", "comm", "oom_score_adj", "coredump_filter", "loginuid"};
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(path, sizeof path, "/proc/self/%s", files[i]);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		uint64_t sum = 1;
		long total = 0;
		unsigned char c;
		while (fd >= 0 && read(fd, &c, 1) == 1) {
			sum = mix(sum ^ c);
			total++;
		}
		close(fd);
		fprintf(out, "%s %ld bytes, sum %lx\n", files[i], total, sum);
	}
	fprintf(out, "brk %p\n", sbrk(0));
}

void dump_actions(void)
{
	for (int sig = 1; sig <= 64; sig++) {
		struct kernel_action a = {0};
		if (syscall(SYS_rt_sigaction, sig, NULL, &a, 8) != 0)
			continue;
		fprintf(out, "action %d: %p flags %lx restorer %p mask %lx\n", sig, a.handler, a.flags, a.restorer, a.mask);
	}
}

void dump_mask(const char *who)
{
	uint64_t mask = 0;
	stack_t stack = {0};
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
	sigaltstack(NULL, &stack);
	fprintf(out, "%s: mask %lx altstack %p flags %x size %zx\n", who, mask, stack.ss_sp, stack.ss_flags, stack.ss_size);
}

void note_timer(timer_t id, const char *name)
{
	timers[timer_count].id = id;
	timers[timer_count++].name = name;
}

void dump_timers(void)
{
	static const struct {
		int which;
		const char *name;
	} kinds[] = {{ITIMER_REAL, "real"}, {ITIMER_VIRTUAL, "virtual"}, {ITIMER_PROF, "prof"}};
	for (int i = 0; i < 3; i++) {
		struct itimerval it;
		getitimer(kinds[i].which, &it);
		/* Remaining time is compared by the hour. */
		fprintf(out, "itimer %s: every %ld.%06ld, armed %d, left %s\n", kinds[i].name, it.it_interval.tv_sec,
			it.it_interval.tv_usec, it.it_value.tv_sec > 0,
			it.it_value.tv_sec > 4000 && it.it_value.tv_sec <= 5000 ? "about 5000" : "WRONG");
	}
	for (int i = 0; i < timer_count; i++) {
		struct itimerspec it = {0};
		int err = timer_gettime(timers[i].id, &it);
		long left = it.it_value.tv_sec;
		fprintf(out, "timer %s: id %ld, error %d, every %ld.%09ld, left %s, overrun %d\n", timers[i].name,
			(long)timers[i].id, err, it.it_interval.tv_sec, it.it_interval.tv_nsec,
			left == 0 ? "none" : left > 6000 && left <= 7000 ? "about 7000" : "WRONG",
			timer_getoverrun(timers[i].id));
	}
}

void dump_limits(void)
{
	for (int i = 0; i < 16; i++) {
		struct rlimit r;
		if (getrlimit(i, &r) == 0)
			fprintf(out, "limit %d: %lx %lx\n", i, (long)r.rlim_cur, (long)r.rlim_max);
	}
}

void dump_credentials(void)
{
	uid_t r, e, s;
	getresuid(&r, &e, &s);
	fprintf(out, "uid %d %d %d", r, e, s);
	getresgid(&r, &e, &s);
	fprintf(out, " gid %d %d %d groups", r, e, s);
	gid_t groups[64];
	int n = getgroups(64, groups);
	for (int i = 0; i < n; i++)
		fprintf(out, " %d", groups[i]);
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{0}};
	syscall(SYS_capget, &header, data);
	fprintf(out, "\ncaps %x%08x %x%08x %x%08x\nbounding ", data[1].permitted, data[0].permitted, data[1].effective,
		data[0].effective, data[1].inheritable, data[0].inheritable);
	for (int i = 0; i < 64; i++)
		fprintf(out, "%d", prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1);
	fprintf(out, "\nambient ");
	for (int i = 0; i < 64; i++)
		fprintf(out, "%d", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1);
	fprintf(out, "\nsecurebits %x no_new_privs %d keepcaps %d\n", prctl(PR_GET_SECUREBITS),
		prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_KEEPCAPS));
}

static void dump_schedule_of(const char *who)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
		uint32_t util_min, util_max;
	} attr = {0};
	syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0);
	fprintf(out, "%s: policy %u flags %lx nice %d priority %u uclamp %u %u", who, attr.policy, attr.flags, attr.nice,
		attr.priority, attr.util_min, attr.util_max);
	unsigned long cpus[16] = {0};
	syscall(SYS_sched_getaffinity, 0, sizeof cpus, cpus);
	fprintf(out, " cpus %lx ioprio %lx slack %d\n", cpus[0], syscall(SYS_ioprio_get, 1, 0), prctl(PR_GET_TIMERSLACK));
}

void dump_scheduling(void)
{
	dump_schedule_of("main");
}

void dump_settings(void)
{
	int sig = 0, reaper = 0, *clear = NULL;
	char name[17] = {0};
	mode_t mask = umask(0);
	umask(mask);
	prctl(PR_GET_PDEATHSIG, &sig);
	prctl(PR_GET_CHILD_SUBREAPER, &reaper);
	prctl(PR_GET_NAME, name);
	prctl(PR_GET_TID_ADDRESS, &clear);
	void *head = NULL;
	size_t length = 0;
	syscall(SYS_get_robust_list, 0, &head, &length);
	fprintf(out, "umask %o pdeathsig %d subreaper %d name '%s' dumpable %d thp_disable %d personality %x\n", mask, sig,
		reaper, name, prctl(PR_GET_DUMPABLE), prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), personality(0xffffffff));
	fprintf(out, "tid address %p robust list %p %zu\n", (void *)clear, head, length);
}

/* glibc registers restartable sequences; the kernel keeps the CPU there. */
void dump_rseq(void)
{
	extern const ptrdiff_t __rseq_offset __attribute__((weak));
	if (&__rseq_offset == NULL) {
		fprintf(out, "rseq: not in this libc\n");
		return;
	}
	volatile uint32_t *cpu_id = (void *)((char *)__builtin_thread_pointer() + __rseq_offset + 4);
	cpu_set_t before, one;
	sched_getaffinity(0, sizeof before, &before);
	int wrong = 0;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &before))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		if (sched_setaffinity(0, sizeof one, &one) == 0 && *cpu_id != (uint32_t)cpu)
			wrong++;
	}
	sched_setaffinity(0, sizeof before, &before);
	fprintf(out, "rseq: %d wrong\n", wrong);
}

static pthread_barrier_t started;

static void *thread_main(void *arg)
{
	int i = (int)(uintptr_t)arg;
	char name[32];
	sigset_t set;
	threads[i].tid = tid();
	snprintf(name, sizeof name, "side-%d", i);
	prctl(PR_SET_NAME, name);
	sigfillset(&set);
	sigdelset(&set, SIGRTMIN + 10 + i);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	/* glibc's setpriority acts on the calling thread. */
	setpriority(PRIO_PROCESS, 0, 5 + i);
	stack_t stack = {.ss_sp = malloc(32 << 10), .ss_size = (32 << 10) - i * 4096};
	sigaltstack(&stack, NULL);
	prctl(PR_SET_TIMERSLACK, 200000 + i);
	if (i == 1) {
		/* A signal for this thread only, pending for ever. */
		syscall(SYS_tgkill, getpid(), tid(), SIGUSR2);
	}
	pthread_barrier_wait(&started);
	for (;;) {
		struct timespec ts = {0, 2000000};
		nanosleep(&ts, NULL);
		if (!threads[i].request)
			continue;
		threads[i].request = 0;
		fprintf(out, "thread %d: tid %d was %d\n", i, tid(), threads[i].tid);
		snprintf(name, sizeof name, "thread %d", i);
		dump_mask(name);
		dump_schedule_of(name);
		sigpending(&set);
		fprintf(out, "%s: pending %lx\n", name, *(unsigned long *)&set);
		prctl(PR_GET_NAME, name);
		fprintf(out, "thread %d: name %s\n", i, name);
		dump_rseq();
		threads[i].answered = 1;
	}
	return NULL;
}

void start_threads(void)
{
	pthread_barrier_init(&started, NULL, THREADS + 1);
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i].thread, NULL, thread_main, (void *)(uintptr_t)i) != 0)
			abort();
	pthread_barrier_wait(&started);
}

void dump_threads(void)
{
	for (int i = 0; i < THREADS; i++) {
		threads[i].answered = 0;
		threads[i].request = 1;
		while (!threads[i].answered) {
			struct timespec ts = {0, 1000000};
			nanosleep(&ts, NULL);
		}
	}
}

static void expect(int sig, int code, int value)
{
	fprintf(out, "pending %d: code %d value %d pid %d uid %d\n", sig, code, value, getpid(), 0);
}

/*
 * Before, the signals must stay pending: what is expected is written. After,
 * they are taken from the queue.
 */
void dump_pending(int final)
{
	sigset_t set;
	siginfo_t info;
	struct timespec none = {0, 0};
	if (!final) {
		/* glibc shows SI_TKILL as SI_USER. */
		expect(SIGUSR2, SI_USER, 0);
		expect(SIGWINCH, SI_USER, 0);
		for (int i = 0; i < PENDING; i++)
			expect(SIGRTMIN + 1, SI_QUEUE, 1000 + i);
		return;
	}
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGWINCH);
	sigaddset(&set, SIGRTMIN + 1);
	while (sigtimedwait(&set, &info, &none) > 0)
		fprintf(out, "pending %d: code %d value %d pid %d uid %d\n", info.si_signo, info.si_code,
			info.si_code == SI_QUEUE ? info.si_value.sival_int : 0, info.si_pid, info.si_uid);
}
