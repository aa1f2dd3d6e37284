/*
 * Many tasks: "many processes N" or "many threads N". Every member answers each
 * round with its own identity and its own memory, through shared memory; the
 * root checks all answers and ticks.
 */
#include "subject.h"
#include <linux/futex.h>

enum { MOST = 2000 };

struct board {
	volatile uint32_t round; /* futex: a new round began */
	volatile uint32_t left;  /* futex: answers that are missing */
	struct {
		volatile uint32_t round;
		volatile pid_t pid, parent, tid;
		volatile uint64_t seed;
	} slot[MOST];
};

static struct board *board;
static pid_t root;
static __thread uint64_t own; /* private memory of a process or thread */

static void futex(volatile uint32_t *word, int op, uint32_t value)
{
	/* A second at most: whoever misses a wake-up looks again. */
	struct timespec limit = {1, 0};
	syscall(SYS_futex, word, op, value, op == FUTEX_WAIT ? &limit : NULL, NULL, 0);
}

static void *member(void *arg)
{
	int i = (int)(intptr_t)arg;
	own = mix(i);
	for (uint32_t seen = 0;;) {
		uint32_t now = board->round;
		if (now == seen) {
			if (getppid() == 1)
				return NULL;
			futex(&board->round, FUTEX_WAIT, now);
			continue;
		}
		seen = now;
		board->slot[i].pid = getpid();
		board->slot[i].parent = getppid();
		board->slot[i].tid = tid();
		board->slot[i].seed = own;
		board->slot[i].round = now;
		if (__atomic_sub_fetch(&board->left, 1, __ATOMIC_SEQ_CST) == 0)
			futex(&board->left, FUTEX_WAKE, 1);
	}
}

/* Asks everybody; the answers have to be those of the first round. */
static void ask_all(int n, const pid_t *tids, int threads)
{
	board->left = n;
	__atomic_add_fetch(&board->round, 1, __ATOMIC_SEQ_CST);
	futex(&board->round, FUTEX_WAKE, 1 << 30);
	for (uint32_t left; (left = board->left) != 0;)
		futex(&board->left, FUTEX_WAIT, left);
	for (int i = 0; i < n; i++) {
		if (board->slot[i].round != board->round)
			bad("member %d answered round %u in round %u", i, board->slot[i].round, board->round);
		if (tids[i] != 0 && board->slot[i].tid != tids[i])
			bad("member %d is task %d, was %d", i, board->slot[i].tid, tids[i]);
		if (board->slot[i].seed != mix(i))
			bad("member %d has another memory", i);
		if (threads ? board->slot[i].pid != root : board->slot[i].parent != root)
			bad("member %d belongs to another process", i);
	}
}

int main(int argc, char **argv)
{
	subject_open();
	check(argc == 3);
	int threads = !strcmp(argv[1], "threads"), n = atoi(argv[2]) - 1;
	check(n > 0 && n <= MOST);
	root = getpid();
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(board != MAP_FAILED);
	pthread_attr_t attr;
	check(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, 64 << 10) == 0);
	for (int i = 0; i < n; i++) {
		pthread_t thread;
		if (threads) {
			check(pthread_create(&thread, &attr, member, (void *)(intptr_t)i) == 0);
			continue;
		}
		pid_t pid = fork();
		check(pid >= 0);
		if (pid == 0)
			return member((void *)(intptr_t)i) != NULL;
	}
	pid_t *tids = calloc(n, sizeof *tids);
	check(tids != NULL);
	ask_all(n, tids, threads);
	for (int i = 0; i < n; i++)
		tids[i] = board->slot[i].tid;
	say("ready");
	for (long round = 0;; round++) {
		if (asked("break"))
			tids[n / 2]++;
		ask_all(n, tids, threads);
		say("tick %ld", round);
		pause_ms(50);
	}
}
