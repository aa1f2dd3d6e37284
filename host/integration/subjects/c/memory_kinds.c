/* The kinds of memory of memory.c. */
#include "memory.h"
#include "subject.h"

enum { PAGE = 4096, SPARSE_PAGES = 64 };
static const size_t sparse_length = 4ull << 30;

static void *map(size_t length, int prot, int flags, int fd, off_t off)
{
	void *p = mmap(NULL, length, prot, flags, fd, off);
	check(p != MAP_FAILED);
	return p;
}

static void *anonymous(size_t length, int flags)
{
	/* A gap on both sides keeps mappings from merging. */
	char *p = map(length + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(munmap(p, PAGE) == 0 && munmap(p + PAGE + length, PAGE) == 0);
	return mmap(p + PAGE, length, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_ANONYMOUS | flags, -1, 0);
}

static struct kind *filled(const char *name, size_t length, int flags, uint64_t seed)
{
	void *p = anonymous(length, flags);
	struct kind *k = add(name, p, length, seed);
	k->fixed = 1;
	fill(p, length, seed);
	return k;
}

static void verify_zero(struct kind *k)
{
	const uint64_t *w = k->address;
	for (size_t i = 0; i < k->length / 8; i++)
		if (w[i] != 0) {
			bad("%s: not zero at byte %zu", k->name, i * 8);
			return;
		}
}

static void verify_none(struct kind *k)
{
	if (mprotect(k->address, k->length, PROT_READ) != 0)
		bad("%s: %s", k->name, strerror(errno));
	long at = verify(k->address, k->length, k->seed);
	if (at >= 0)
		bad("%s: differs at byte %ld", k->name, at);
	mprotect(k->address, k->length, PROT_NONE);
}

static void verify_untouched(struct kind *k)
{
	unsigned char in[16];
	if (mincore(k->address, k->length, in) != 0)
		bad("%s: %s", k->name, strerror(errno));
}

static void verify_gap(struct kind *k)
{
	unsigned char in[16];
	if (mincore(k->address, k->length, in) == 0 || errno != ENOMEM)
		bad("%s: something is mapped there", k->name);
}

static char *sparse_page(struct kind *k, int i)
{
	return (char *)k->address + (mix(i) % (k->length / PAGE)) * PAGE;
}

static void verify_sparse(struct kind *k)
{
	for (int i = 0; i < SPARSE_PAGES; i++)
		if (verify(sparse_page(k, i), PAGE, k->seed + mix(i)) >= 0)
			bad("%s: page %d differs", k->name, i);
}

static void verify_code(struct kind *k)
{
	int (*f)(void);
	memcpy(&f, &k->address, sizeof f);
	if (f() != 4242)
		bad("%s: returned %d", k->name, f());
}

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static void verify_sealed(struct kind *k)
{
	if (verify(k->address, k->length, k->seed) >= 0)
		bad("%s: content differs", k->name);
	if (mprotect(k->address, PAGE, PROT_READ) == 0 || errno != EPERM)
		bad("%s: its protection can be changed", k->name);
}

void add_anonymous(void)
{
	filled("private", 3 << 20, MAP_PRIVATE, 1);
	filled("shared", 1 << 20, MAP_SHARED, 2);
	struct kind *k = filled("read-only", 64 << 10, MAP_PRIVATE, 3);
	check(mprotect(k->address, k->length, PROT_READ) == 0);
	k = filled("no access", 64 << 10, MAP_PRIVATE, 4);
	check(mprotect(k->address, k->length, PROT_NONE) == 0);
	k->verify = verify_none;
	k = add("untouched no access", anonymous(16 * PAGE, MAP_PRIVATE), 16 * PAGE, 0);
	check(mprotect(k->address, k->length, PROT_NONE) == 0);
	k->verify = verify_untouched;
	k->fixed = 1;
	k = add("zero page", anonymous(16 * PAGE, MAP_PRIVATE), 16 * PAGE, 0);
	k->verify = verify_zero;
	verify_zero(k);
	k = add("sparse", anonymous(sparse_length, MAP_PRIVATE | MAP_NORESERVE), sparse_length, 5);
	k->verify = verify_sparse;
	k->fixed = 1;
	for (int i = 0; i < SPARSE_PAGES; i++)
		fill(sparse_page(k, i), PAGE, k->seed + mix(i));
	k = filled("locked", 64 << 10, MAP_PRIVATE, 6);
	check(mlock(k->address, k->length) == 0);
	k = filled("sealed", 64 << 10, MAP_PRIVATE, 14);
	k->fixed = 1;
	if (syscall(SYS_mseal, k->address, k->length, 0) == 0) /* since Linux 6.10 */
		k->verify = verify_sealed;
	k = filled("not inherited", 64 << 10, MAP_PRIVATE, 7);
	check(madvise(k->address, k->length, MADV_DONTFORK) == 0);
	k = filled("not dumped", 64 << 10, MAP_PRIVATE, 8);
	check(madvise(k->address, k->length, MADV_DONTDUMP) == 0);
	k = filled("wiped on fork", 64 << 10, MAP_PRIVATE, 9);
	check(madvise(k->address, k->length, MADV_WIPEONFORK) == 0);
	k = filled("huge pages", 4 << 20, MAP_PRIVATE, 10);
	madvise(k->address, k->length, MADV_HUGEPAGE);
	k = filled("random access", 64 << 10, MAP_PRIVATE, 11);
	check(madvise(k->address, k->length, MADV_RANDOM) == 0);
	k = filled("every other page", 32 * PAGE, MAP_PRIVATE, 12);
	for (int i = 1; i < 32; i += 2)
		check(madvise((char *)k->address + i * PAGE, PAGE, MADV_DONTNEED) == 0);
	for (int i = 0; i < 32; i += 2)
		add("single page", (char *)k->address + i * PAGE, PAGE, 12 + i * (PAGE / 8));
	k->verify = verify_untouched;
	k->length = 16 * PAGE;
#ifdef __x86_64__
	static const unsigned char code[] = {0xb8, 0x92, 0x10, 0, 0, 0xc3}; /* mov $4242, %eax; ret */
	k = add("code", anonymous(PAGE, MAP_PRIVATE), PAGE, 0);
	memcpy(k->address, code, sizeof code);
	check(mprotect(k->address, PAGE, PROT_READ | PROT_EXEC) == 0);
	k->verify = verify_code;
	k->fixed = 1;
#endif
	k = add("heap", sbrk(256 << 10), 256 << 10, 13);
	fill(k->address, k->length, k->seed);
}

static int make_file(const char *name, size_t length, uint64_t seed)
{
	char *content = malloc(length);
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	fill(content, length, seed);
	check(fd >= 0 && write(fd, content, length) == (ssize_t)length);
	free(content);
	return fd;
}

/* Every second page was written to by the program, the others are the file's. */
static void verify_mixed(struct kind *k)
{
	for (size_t i = 0; i < k->length / PAGE; i++) {
		uint64_t seed = i & 1 ? k->seed + 1000 + i : k->seed + i * (PAGE / 8);
		if (verify((char *)k->address + i * PAGE, PAGE, seed) >= 0)
			bad("%s: page %zu differs", k->name, i);
	}
}

static uint64_t shared_counter;

/* What is written to a shared mapping is in the file, and the other way. */
static void verify_file_shared(struct kind *k)
{
	static int fd = -1;
	uint64_t got = 0, *word = k->address;
	if (fd < 0)
		fd = open("file.shared", O_RDWR | O_CLOEXEC);
	*word = ++shared_counter;
	if (pread(fd, &got, 8, PAGE) != 8 || got != shared_counter)
		bad("%s: the file has %lu, the mapping %lu", k->name, got, shared_counter);
	got = ~shared_counter;
	if (pwrite(fd, &got, 8, PAGE + 8) != 8 || word[1] != got)
		bad("%s: the mapping does not see what was written to the file", k->name);
	if (verify(word + 2, k->length - 16, k->seed + PAGE / 8 + 2) >= 0)
		bad("%s: content differs", k->name);
}

void add_files(void)
{
	int fd = make_file("file.private", 32 * PAGE, 20);
	struct kind *k = add("file, private", map(32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), 32 * PAGE, 20);
	for (int i = 1; i < 32; i += 2)
		fill((char *)k->address + i * PAGE, PAGE, k->seed + 1000 + i);
	k->verify = verify_mixed;
	k->fixed = 1;
	close(fd);

	fd = make_file("file.read", 8 * PAGE + 1000, 21);
	k = add("file, read-only", map(8 * PAGE + 1000, PROT_READ, MAP_PRIVATE, fd, 0), 8 * PAGE + 1000, 21);
	k->fixed = 1;
	close(fd);

	fd = make_file("file.shared", 8 * PAGE, 22);
	k = add("file, shared", map(7 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE), 7 * PAGE, 22);
	k->verify = verify_file_shared;
	k->fixed = 1;
	close(fd);
}

static void verify_grow(struct kind *k)
{
	char *end = (char *)k->address + k->length;
	if (verify(end - k->length, k->length, k->seed) >= 0)
		bad("%s: differs", k->name);
}

void add_stacks(void)
{
	/* Below a mapping that grows down: a hole, which the kernel keeps free as
	 * a guard, and inaccessible memory, which may be near. */
	const size_t room = 1 << 20, hole = 64 * PAGE;
	char *base = map(room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *p = mmap(base + room - 4 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN | MAP_STACK, -1, 0);
	check(p != MAP_FAILED);
	check(munmap(p - hole, hole) == 0);
	fill(p - 8 * PAGE, 12 * PAGE, 30);
	struct kind *k = add("grows down", p - 8 * PAGE, 12 * PAGE, 30);
	k->verify = verify_grow;
	k->fixed = 1;
}

/* Called last: a later mapping could be put into the gap. */
void add_gap(void)
{
	char *p = anonymous(12 * PAGE, MAP_PRIVATE);
	struct kind *k = add("gap", p + 4 * PAGE, 4 * PAGE, 0);
	check(p != MAP_FAILED && munmap(k->address, k->length) == 0);
	k->verify = verify_gap;
}

static __attribute__((noinline)) int deep(int depth)
{
	volatile int room[4 << 10];
	room[0] = depth;
	room[sizeof room / sizeof *room - 1] = depth;
	return depth == 0 ? room[0] : deep(depth - 1) + room[0];
}

/* Stacks and heap go on growing where they were. */
void exercise_growth(void)
{
	struct kind *k = find("grows down");
	char *below = (char *)k->address - 4 * PAGE;
	fill(below, 4 * PAGE, 31);
	if (verify(below, 4 * PAGE, 31) >= 0)
		bad("%s: does not grow any more", k->name);
	deep(100);
	char *end = sbrk(0);
	if (sbrk(1 << 20) != end)
		bad("heap: does not grow where it ended");
	else
		fill(end, 1 << 20, 32);
}

/* A child that shares one mapping, and has private copies of another. */
struct exchange {
	volatile uint64_t question, answer;
};
static struct exchange *exchange;
static pid_t child;

static void child_main(void)
{
	struct kind *copy = find("private");
	struct kind *changed = find("shared");
	fill(copy->address, copy->length / 2, 40); /* half of it is the child's own */
	for (uint64_t last = 0;;) {
		if (exchange->question == last) {
			pause_ms(1);
			continue;
		}
		last = exchange->question;
		if (verify(copy->address, copy->length / 2, 40) >= 0 ||
		    verify((char *)copy->address + copy->length / 2, copy->length / 2, copy->seed + copy->length / 16) >= 0)
			bad("child: private memory differs");
		if (verify(changed->address, changed->length, changed->seed) >= 0)
			bad("child: shared memory differs");
		exchange->answer = mix(last);
	}
}

void start_child(void)
{
	exchange = anonymous(PAGE, MAP_SHARED);
	check(exchange != MAP_FAILED);
	child = fork();
	check(child >= 0);
	if (child == 0)
		child_main();
}

void exercise_child(void)
{
	static uint64_t n;
	exchange->question = ++n;
	while (exchange->answer != mix(n)) {
		if (waitpid(child, NULL, WNOHANG) != 0) {
			bad("the child ended");
			exit(1);
		}
		pause_ms(1);
	}
}
