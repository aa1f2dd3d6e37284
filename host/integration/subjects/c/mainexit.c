/*
 * A process whose main thread has ended while others run: "pthread" by
 * pthread_exit(3), "raw" by exit(2) with a status of its own. With "nobody" it
 * has given up its rights before.
 *
 * It has of every kind something that is read or built by way of a task.
 */
#include "subject.h"

#include <grp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { WORKERS = 3, MAIN_STATUS = 23, STATUS = 24 };

static struct worker {
	pthread_t thread;
	int index;
	volatile pid_t tid;
	volatile unsigned long beats;
} workers[WORKERS];

static pid_t process, child;
static volatile int quit, damage;
static int numbers[2], set, unnamed, listener;
static volatile unsigned long *shared;
static __thread uint64_t seed;

/* The state letter of a task of this process. */
static char state_of(pid_t task)
{
	char path[64], text[512];
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", task);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return '?';
	text[n] = 0;
	char *end = strrchr(text, ')');
	return end != NULL && end[1] != 0 ? end[2] : '?';
}

static void same_thread(struct worker *w)
{
	if (tid() != w->tid)
		bad("worker %d: thread id %d, was %d", w->index, tid(), w->tid);
	if (getpid() != process)
		bad("worker %d: process id %d, was %d", w->index, getpid(), process);
	if (seed != mix(w->index) || damage)
		bad("worker %d: thread-local variable changed", w->index);
}

/* Worker 1 reads what worker 0 wrote, by an epoll set. */
static void read_number(uint64_t *next)
{
	struct epoll_event ev;
	uint64_t got;
	int n = epoll_wait(set, &ev, 1, 20);
	if (n == -1 && errno == EINTR)
		return; /* whenever a task is stopped, signal(7) */
	if (n < 0)
		bad("epoll_wait: %s", strerror(errno));
	if (n != 1)
		return;
	if (read(numbers[0], &got, sizeof got) != sizeof got || got != *next)
		bad("read %lu from the pipe, want %lu", got, *next);
	++*next;
}

static void verify_files(long n)
{
	char got[16] = "";
	struct stat st;
	if (pread(unnamed, got, sizeof got, 0) != 6 || memcmp(got, "ghost", 6) != 0)
		bad("the file without a name has %.6s", got);
	if (fstat(listener, &st) != 0 || !S_ISSOCK(st.st_mode))
		bad("the socket is gone");
	if (kill(child, 0) != 0)
		bad("child: %s", strerror(errno));
	if (n % 5 == 0 && state_of(process) != 'Z')
		bad("the main thread is %c, want a zombie", state_of(process));
}

static void *work(void *arg)
{
	struct worker *w = arg;
	uint64_t next = 0;
	w->tid = tid();
	seed = mix(w->index);
	for (long n = 0; !quit; n++) {
		same_thread(w);
		switch (w->index) {
		case 0:
			if (write(numbers[1], &next, sizeof next) != sizeof next)
				bad("write: %s", strerror(errno));
			next++;
			pause_ms(2);
			break;
		case 1:
			read_number(&next);
			break;
		default:
			pause_ms(1);
		}
		w->beats++;
	}
	return NULL;
}

/* A child with a parent death signal, which must not come as long as the thread
 * that made it lives. */
static void make_child(void)
{
	child = fork();
	check(child >= 0);
	if (child != 0)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		(*shared)++;
		pause_ms(5);
	}
}

static void *control(void *arg)
{
	unsigned long last[WORKERS] = {0}, beats = 0;
	int raw = arg != NULL;
	make_child();
	while (state_of(process) != 'Z')
		pause_ms(1);
	say("ready");
	for (long n = 0; !quit; n++) {
		for (int i = 0; i < WORKERS; i++) {
			while (workers[i].beats == last[i])
				pause_ms(1);
			last[i] = workers[i].beats;
		}
		while (*shared == beats)
			pause_ms(1);
		beats = *shared;
		verify_files(n);
		say("tick %ld", n);
		if (asked("break"))
			damage = 1;
		quit = asked("finish");
		pause_ms(10);
	}
	for (int i = 0; i < WORKERS; i++)
		pthread_join(workers[i].thread, NULL);
	kill(child, SIGKILL);
	int status;
	if (waitpid(child, &status, 0) != child)
		bad("wait for the child: %s", strerror(errno));
	say("finished");
	if (!raw)
		exit(STATUS);
	syscall(SYS_exit, STATUS);
	return NULL;
}

static void setup(int nobody)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX, .sun_path = "main.sock"};
	struct epoll_event ev = {.events = EPOLLIN};
	process = getpid();
	check(pipe(numbers) == 0);
	check((set = epoll_create1(0)) >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, numbers[0], &ev) == 0);
	check((unnamed = open("ghost", O_RDWR | O_CREAT | O_EXCL, 0600)) >= 0);
	check(write(unnamed, "ghost", 6) == 6 && unlink("ghost") == 0);
	check((listener = socket(AF_UNIX, SOCK_STREAM, 0)) >= 0);
	check(bind(listener, (void *)&addr, sizeof addr) == 0 && listen(listener, 4) == 0);
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(shared != MAP_FAILED);
	if (nobody) {
		check(setgroups(0, NULL) == 0);
		check(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
		check(prctl(PR_SET_DUMPABLE, 1) == 0);
	}
}

int main(int argc, char **argv)
{
	pthread_t t;
	int raw = argc > 1 && strcmp(argv[1], "raw") == 0;

	subject_open();
	setup(argc > 2 && strcmp(argv[2], "nobody") == 0);
	for (int i = 0; i < WORKERS; i++) {
		workers[i].index = i;
		check(pthread_create(&t, NULL, work, &workers[i]) == 0);
		workers[i].thread = t;
	}
	check(prctl(PR_SET_NAME, "gone-main") == 0);
	check(pthread_create(&t, NULL, control, raw ? &t : NULL) == 0);
	if (raw)
		syscall(SYS_exit, MAIN_STATUS);
	pthread_exit(NULL);
}
