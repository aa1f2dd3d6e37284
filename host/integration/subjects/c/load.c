/*
 * The load of the benchmarks:
 *
 *   load memory MIB      that much anonymous memory, written to
 *   load processes N     N children that wait
 *   load threads N       N threads that wait
 *   load files N         N open regular files
 *   load network         a network namespace
 *   load sleep           nothing
 *
 * It says "ready" and then sleeps. Once the file "measure" is there, the
 * first process writes "gap NS" whenever it stood still for more than 1 ms.
 */
#include "subject.h"

#include <sys/resource.h>

static void *idle(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void use_memory(size_t mib)
{
	char *p = mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(p != MAP_FAILED);
	fill(p, mib << 20, 99);
}

static void start_processes(int n)
{
	for (int i = 0; i < n; i++) {
		pid_t pid = fork();
		check(pid >= 0);
		if (pid == 0)
			idle(NULL);
	}
}

static void start_threads(int n)
{
	pthread_attr_t attr;
	pthread_t t;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (int i = 0; i < n; i++)
		check(pthread_create(&t, &attr, idle, NULL) == 0);
}

static void open_files(int n)
{
	char name[32];
	struct rlimit r;
	getrlimit(RLIMIT_NOFILE, &r);
	r.rlim_cur = r.rlim_max;
	setrlimit(RLIMIT_NOFILE, &r);
	mkdir("files", 0755);
	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof name, "files/%d", i);
		check(open(name, O_RDWR | O_CREAT, 0644) >= 0);
	}
}

/* A namespace with three devices and two routes. */
static void enter_network(void)
{
	check(unshare(CLONE_NEWNET) == 0);
	check(system("ip link set lo up && ip link add v0 type veth peer name v1 && ip link set v0 up && "
		     "ip link set v1 up && ip addr add 10.9.0.1/24 dev v0 && ip route add default via 10.9.0.2") == 0);
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 0;
	subject_open();
	check(argc > 1);
	if (strcmp(argv[1], "memory") == 0)
		use_memory(n);
	if (strcmp(argv[1], "processes") == 0)
		start_processes(n);
	if (strcmp(argv[1], "threads") == 0)
		start_threads(n);
	if (strcmp(argv[1], "files") == 0)
		open_files(n);
	if (strcmp(argv[1], "network") == 0)
		enter_network();
	say("ready");
	while (!asked("measure"))
		pause_ms(20);
	for (uint64_t last = now_ns();;) {
		struct timespec ts = {0, 100000};
		nanosleep(&ts, NULL);
		uint64_t now = now_ns();
		if (now - last > 1000000)
			say("gap %lu", now - last);
		last = now;
	}
}
