/*
 * A program that works with io_uring: it reads a file through one ring, of which it
 * leaves completions untaken all the time, waits in a thread for those of another,
 * and shares a third one with its child. With an argument it does what cannot be
 * carried, and only waits.
 */
#include "subject.h"

#include <linux/io_uring.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/uio.h>

enum { ENTRIES = 8, LEFT = 3, BLOCK = 64, BLOCKS = 32 };

struct ring {
	int fd;
	char *rings;
	struct io_uring_sqe *sqes;
	struct io_uring_params p;
};

static struct ring reader, waiter, both;
static int file;
static char data[BLOCKS][BLOCK];
static uint64_t answered;

static uint32_t *word(struct ring *r, unsigned offset)
{
	return (uint32_t *)(r->rings + offset);
}

static void open_ring(struct ring *r, unsigned flags)
{
	r->p.flags = flags;
	r->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &r->p);
	check(r->fd >= 0);
	size_t size = r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe);
	if (!(flags & (1 << 16)) && size < r->p.sq_off.array + r->p.sq_entries * 4)
		size = r->p.sq_off.array + r->p.sq_entries * 4;
	r->rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, 0);
	r->sqes = mmap(NULL, r->p.sq_entries * sizeof *r->sqes, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
	check(r->rings != MAP_FAILED && r->sqes != MAP_FAILED);
}

/* Submits one request. */
static int submit(struct ring *r, int op, int fd, void *buf, unsigned len, uint64_t off, uint64_t name)
{
	uint32_t tail = *word(r, r->p.sq_off.tail), at = tail & (r->p.sq_entries - 1);
	struct io_uring_sqe *s = &r->sqes[at];
	memset(s, 0, sizeof *s);
	s->opcode = (uint8_t)op;
	s->fd = fd;
	s->addr = (uintptr_t)buf;
	s->len = len;
	s->off = off;
	s->user_data = name;
	if (!(r->p.flags & (1 << 16)))
		word(r, r->p.sq_off.array)[at] = at;
	__atomic_store_n(word(r, r->p.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	return (int)syscall(SYS_io_uring_enter, r->fd, 1, 0, 0, NULL, 0);
}

/* Takes the oldest completion; waits for it if told so. */
static int take(struct ring *r, int wait, uint64_t *name)
{
	uint32_t head = *word(r, r->p.cq_off.head);
	while (__atomic_load_n(word(r, r->p.cq_off.tail), __ATOMIC_ACQUIRE) == head) {
		if (!wait)
			return -EAGAIN;
		if (syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0 && errno != EINTR)
			return -errno;
	}
	struct io_uring_cqe *c = (struct io_uring_cqe *)(r->rings + r->p.cq_off.cqes) + (head & (r->p.cq_entries - 1));
	int res = c->res;
	*name = c->user_data;
	__atomic_store_n(word(r, r->p.cq_off.head), head + 1, __ATOMIC_RELEASE);
	return res;
}

static uint64_t asked_for, taken;

static void ask_block(void)
{
	uint64_t n = asked_for++;
	memset(data[n % BLOCKS], 0xee, BLOCK);
	if (submit(&reader, IORING_OP_READ, file, data[n % BLOCKS], BLOCK, (n % BLOCKS) * BLOCK, mix(n)) != 1)
		bad("read %lu: io_uring_enter: %s", n, strerror(errno));
}

static void take_block(void)
{
	uint64_t n = taken++, name = 0;
	int got = take(&reader, 0, &name);
	if (got != BLOCK || name != mix(n) || verify(data[n % BLOCKS], BLOCK, 1000 + (n % BLOCKS) * BLOCK / 8) >= 0)
		bad("read %lu: %d bytes, request %lx, want %lx", n, got, name, mix(n));
}

static void *wait_for_work(void *arg)
{
	while (arg == NULL) {
		uint64_t name = 0;
		int res = take(&waiter, 1, &name);
		if (res != 0)
			bad("waiting thread: %d", res);
		__atomic_store_n(&answered, name, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void child(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		if (submit(&both, IORING_OP_NOP, -1, NULL, 0, 0, 77) != 1 && errno != EBUSY)
			bad("child: io_uring_enter: %s", strerror(errno));
		while (__atomic_load_n(word(&both, both.p.cq_off.head), __ATOMIC_ACQUIRE) != *word(&both, both.p.cq_off.tail))
			pause_ms(1);
	}
}

static void refused(const char *what)
{
	static char buffer[4096];
	struct iovec iov = {buffer, sizeof buffer};
	int fd = eventfd(0, 0);
	if (strcmp(what, "poll") == 0)
		check(submit(&reader, IORING_OP_POLL_ADD, fd, NULL, 0, 0, 1) == 1 || 1);
	if (strcmp(what, "timeout") == 0) {
		static struct {
			long long s, ns;
		} hour = {3600, 0};
		check(submit(&reader, IORING_OP_TIMEOUT, -1, &hour, 1, 0, 1) == 1);
	}
	if (strcmp(what, "buffers") == 0)
		check(syscall(SYS_io_uring_register, reader.fd, IORING_REGISTER_BUFFERS, &iov, 1) == 0);
	if (strcmp(what, "files") == 0)
		check(syscall(SYS_io_uring_register, reader.fd, IORING_REGISTER_FILES, &fd, 1) == 0);
	if (strcmp(what, "eventfd") == 0)
		check(syscall(SYS_io_uring_register, reader.fd, IORING_REGISTER_EVENTFD, &fd, 1) == 0);
	if (strcmp(what, "group") == 0) {
		struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)aligned_alloc(4096, 4096), .ring_entries = 8, .bgid = 54321};
		check(syscall(SYS_io_uring_register, reader.fd, IORING_REGISTER_PBUF_RING, &reg, 1) == 0);
	}
	if (strcmp(what, "ring") == 0) {
		struct io_uring_rsrc_update up = {.offset = ~0u, .data = (uint64_t)reader.fd};
		check(syscall(SYS_io_uring_register, reader.fd, IORING_REGISTER_RING_FDS, &up, 1) == 1);
	}
	if (strcmp(what, "unsubmitted") == 0)
		++*word(&reader, reader.p.sq_off.tail);
	if (strcmp(what, "single") == 0) {
		struct ring one = {0};
		open_ring(&one, IORING_SETUP_SINGLE_ISSUER);
	}
	if (strcmp(what, "thread") == 0) {
		struct ring one = {0};
		open_ring(&one, IORING_SETUP_SQPOLL);
	}
	say("ready");
	for (uint64_t n = 1;; n++) {
		pause_ms(10);
		say("tick %lu", n);
	}
}

int main(int argc, char **argv)
{
	subject_open();
	char text[BLOCKS * BLOCK];
	fill(text, sizeof text, 1000);
	file = open("data", O_RDWR | O_CREAT | O_TRUNC, 0600);
	check(write(file, text, sizeof text) == sizeof text);
	int plain = argc > 1 && strcmp(argv[1], "plain") == 0;
	open_ring(&reader, plain ? 1 << 16 /* IORING_SETUP_NO_SQARRAY */ : 0);
	for (int i = 0; i < LEFT + 100; i++) {
		ask_block();
		if (i >= LEFT)
			take_block();
	}
	if (argc > 1 && !plain)
		refused(argv[1]);
	open_ring(&waiter, 0);
	open_ring(&both, 0);
	madvise(waiter.sqes, 4096, MADV_DONTFORK);
	pid_t pid = fork();
	check(pid >= 0);
	if (pid == 0)
		child();
	pthread_t thread;
	check(pthread_create(&thread, NULL, wait_for_work, NULL) == 0);
	for (uint64_t n = 1;; n++) {
		for (int i = 0; i < 5; i++) {
			ask_block();
			take_block();
		}
		if (submit(&waiter, IORING_OP_NOP, -1, NULL, 0, 0, n) != 1)
			bad("io_uring_enter: %s", strerror(errno));
		for (int i = 0; __atomic_load_n(&answered, __ATOMIC_ACQUIRE) != n; i++) {
			if (i > 5000) {
				bad("the waiting thread does not see a completion");
				break;
			}
			pause_ms(1);
		}
		uint64_t name = 0;
		int res = -EAGAIN;
		for (int i = 0; i < 5000 && (res = take(&both, 0, &name)) == -EAGAIN; i++)
			pause_ms(1);
		if (res != 0 || name != 77)
			bad("of the child: %d, request %lu", res, name);
		if (asked("break"))
			*word(&reader, reader.p.cq_off.head) += 1;
		if (n == 3)
			say("ready");
		say("tick %lu", n);
		pause_ms(3);
	}
}
