/*
 * Memory that says at which instant it was seen. Every worker writes the same
 * number into all of its pages, in order, and then the next number: whenever one
 * looks, the pages up to some place have the new one and all others the old one.
 * A page that is from another moment than the worker's registers is found when it
 * is written next. The first worker has children that come and go, and no others.
 *
 * Usage: ledger WORKERS PAGES
 */
#include "subject.h"

static size_t page;
static long pages;
static volatile long round_of[64];

struct book {
	int index;
	volatile long *mem;
};

static volatile long *at(struct book *b, long n)
{
	return (volatile long *)((volatile char *)b->mem + n * page);
}

static void *keep(void *arg)
{
	struct book *b = arg;
	const long words = page / sizeof(long);
	for (long t = 1;; t++) {
		for (long n = 0; n < pages; n++) {
			volatile long *p = at(b, n);
			if (p[0] != t - 1 || p[words - 1] != t - 1)
				bad("worker %d: page %ld has %ld and %ld in round %ld", b->index, n, p[0], p[words - 1], t);
			p[0] = t;
			p[words - 1] = t;
		}
		round_of[b->index] = t;
		if (t % 4 == 0)
			usleep(500);
	}
	return NULL;
}

/* A child that nobody expects would show here. */
static void children(void)
{
	if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD)
		bad("a child that was not created");
	pid_t child = fork();
	if (child == 0)
		_exit(7);
	int status;
	if (waitpid(-1, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
		bad("another child than the one that was created");
}

int main(int argc, char **argv)
{
	int workers = argc > 1 ? atoi(argv[1]) : 3;
	pages = argc > 2 ? atol(argv[2]) : 2000;
	page = sysconf(_SC_PAGESIZE);
	subject_open();
	static struct book books[64];
	for (int i = 0; i < workers; i++) {
		books[i].index = i;
		books[i].mem = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (books[i].mem == MAP_FAILED)
			bad("mmap: %s", strerror(errno));
		pthread_t t;
		if (pthread_create(&t, NULL, keep, &books[i]) != 0)
			bad("pthread_create");
	}
	say("ready");
	for (long n = 0;; n++) {
		long before[64];
		for (int i = 0; i < workers; i++)
			before[i] = round_of[i];
		for (int i = 0; i < workers; i++)
			while (round_of[i] < before[i] + 2)
				usleep(200);
		children();
		say("tick %ld", n);
	}
}
