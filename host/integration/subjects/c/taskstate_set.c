/* Sets the unusual state of taskstate.c. */
#include "subject.h"
#include "taskstate.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static char altstack[64 << 10];

void set_settings(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	check(fd >= 0 && write(fd, "321", 3) == 3 && close(fd) == 0);
	check(mkdir("cwd", 0755) == 0 || errno == EEXIST);
	umask(0123);
	check(prctl(PR_SET_NAME, "task \tstate)") == 0);
	check(prctl(PR_SET_PDEATHSIG, SIGURG) == 0);
	check(prctl(PR_SET_TIMERSLACK, 123456) == 0);
	check(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	check(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	check(personality(ADDR_NO_RANDOMIZE) >= 0);
	check(setpriority(PRIO_PROCESS, 0, 3) == 0);
	struct sched_param param = {0};
	check(sched_setscheduler(0, SCHED_BATCH, &param) == 0);
	check(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6) == 0);
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	check(sched_setaffinity(0, sizeof cpus, &cpus) == 0);
}

void set_altstack(void)
{
	stack_t stack = {.ss_sp = altstack, .ss_size = sizeof altstack};
	check(sigaltstack(&stack, NULL) == 0);
}

/* Lowers soft and hard limits; after become_nobody they cannot come back. */
void set_limits(void)
{
	struct rlimit r = {500, 900};
	check(setrlimit(RLIMIT_NOFILE, &r) == 0);
	r = (struct rlimit){0, 1 << 20};
	check(setrlimit(RLIMIT_CORE, &r) == 0);
	r = (struct rlimit){4 << 20, 6 << 20};
	check(setrlimit(RLIMIT_STACK, &r) == 0);
	r = (struct rlimit){1 << 20, 1 << 21};
	check(setrlimit(RLIMIT_MSGQUEUE, &r) == 0 || errno == EPERM);
	r = (struct rlimit){200, 300};
	check(setrlimit(RLIMIT_SIGPENDING, &r) == 0);
}

void become_nobody(void)
{
	gid_t groups[] = {65534, 4242, 4243};
	check(chown(".", 65534, 65534) == 0);
	check(chown("log", 65534, 65534) == 0);
	check(prctl(PR_SET_KEEPCAPS, 1) == 0);
	check(setgroups(3, groups) == 0);
	check(setresgid(65534, 65534, 65534) == 0);
	check(setresuid(65534, 65534, 65534) == 0);
	check(prctl(PR_SET_DUMPABLE, 1) == 0);
	/* One capability stays, in two of the sets. */
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	memset(data, 0, sizeof data);
	data[0].permitted = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_SETPCAP;
	data[0].inheritable = 1u << CAP_NET_BIND_SERVICE;
	data[0].effective = 1u << CAP_SETPCAP;
	check(syscall(SYS_capset, &header, data) == 0);
	check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) == 0);
	check(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE) == 0);
	check(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_KEEP_CAPS) == 0);
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	check(prctl(PR_SET_PDEATHSIG, SIGURG) == 0);
}
