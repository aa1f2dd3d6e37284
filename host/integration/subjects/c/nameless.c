/*
 * Mappings of files that have no name: memory files and deleted files, with and
 * without a descriptor that is left of them, shared between a parent and a child.
 * With the argument "deleted" or "memfd" the program itself is such a file.
 */
#include "subject.h"

#include <sys/prctl.h>

enum { PAGE = 4096, SIZE = 16 * PAGE };

struct board {
	uint64_t asked, answered;
};

static struct board *board; /* a memory file, nobody has it open */
static char *twice[2];      /* another one, mapped two times */
static char *open_map;      /* one that is still open */
static int open_fd;
static char *sealed;  /* sealed, read only */
static char *private; /* its first page is the program's own */
static char *file;    /* a deleted file; it ends in the middle of its third page */
static char *code;    /* a deleted file, private, executable */
static char *cow;     /* a deleted file, with a page of the program's own */

static char *map(int fd, size_t size, int prot, int flags)
{
	char *p = mmap(NULL, size, prot, flags, fd, 0);
	check(p != MAP_FAILED);
	return p;
}

static int memory(const char *name, unsigned flags, uint64_t seed)
{
	static char buf[SIZE];
	int fd = (int)syscall(SYS_memfd_create, name, flags);
	fill(buf, SIZE, seed);
	check(fd >= 0 && write(fd, buf, SIZE) == SIZE);
	return fd;
}

static int deleted(const char *name, size_t size, uint64_t seed)
{
	static char buf[SIZE];
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0640);
	fill(buf, SIZE, seed);
	check(fd >= 0 && write(fd, buf, size) == (ssize_t)size && unlink(name) == 0);
	return fd;
}

static void set_up(void)
{
	const int rw = PROT_READ | PROT_WRITE;
	int fd = memory("board", 0, 0);
	board = (struct board *)map(fd, SIZE, rw, MAP_SHARED);
	memset(board, 0, sizeof *board);
	close(fd);

	fd = memory("twice", 0, 1);
	twice[0] = map(fd, SIZE, rw, MAP_SHARED);
	twice[1] = map(fd, SIZE, PROT_READ, MAP_SHARED);
	close(fd);

	open_fd = memory("open", 2 /* MFD_ALLOW_SEALING */, 2);
	open_map = map(open_fd, SIZE, rw, MAP_SHARED);

	fd = memory("sealed", 2, 3);
	check(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) == 0);
	sealed = map(fd, SIZE, PROT_READ, MAP_SHARED);
	close(fd);

	fd = memory("private", 0, 4);
	private = map(fd, SIZE, rw, MAP_PRIVATE);
	fill(private, PAGE, 5);
	close(fd);

	fd = deleted("file", 2 * PAGE + 1000, 6);
	file = map(fd, 3 * PAGE, rw, MAP_SHARED);
	close(fd);

	fd = deleted("code", SIZE, 7);
	code = map(fd, SIZE, PROT_READ | PROT_EXEC, MAP_PRIVATE);
	close(fd);

	fd = deleted("cow", SIZE, 8);
	cow = map(fd, SIZE, rw, MAP_PRIVATE);
	fill(cow + PAGE, PAGE, 9);
	close(fd);
}

static void same(const char *what, const char *p, size_t size, uint64_t seed)
{
	long at = verify(p, size, seed);
	if (at >= 0)
		bad("%s: differs at %ld", what, at);
}

/* The seals of a file that is only mapped. */
static int seals(const char *p, size_t size)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (long)p, (long)p + (long)size);
	int fd = open(path, O_RDONLY);
	int got = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
	close(fd);
	return got;
}

static void verify_all(uint64_t round)
{
	same("twice", twice[1] + 8, SIZE - 8, 1 + 1);
	*(uint64_t *)twice[0] = round;
	if (*(volatile uint64_t *)twice[1] != round)
		bad("twice: the mappings show %lx and %lx", *(uint64_t *)twice[0], *(uint64_t *)twice[1]);
	uint64_t got = 0;
	*(uint64_t *)(open_map + PAGE) = round;
	if (pread(open_fd, &got, sizeof got, PAGE) != sizeof got || got != round)
		bad("open: the file has %lx, its mapping %lx", got, round);
	same("open", open_map + 2 * PAGE, SIZE - 2 * PAGE, 2 + 2 * PAGE / 8);
	same("sealed", sealed, SIZE, 3);
	if (seals(sealed, SIZE) != (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK))
		bad("sealed: has seals %x", seals(sealed, SIZE));
	if (mprotect(sealed, SIZE, PROT_READ | PROT_WRITE) == 0)
		bad("sealed: can be written to");
	same("private", private, PAGE, 5);
	same("private", private + PAGE, SIZE - PAGE, 4 + PAGE / 8);
	same("file", file, 2 * PAGE + 1000, 6);
	if (file[2 * PAGE + 1000] != 0)
		bad("file: has something behind its end");
	same("code", code, SIZE, 7);
	same("cow", cow, PAGE, 8);
	same("cow", cow + PAGE, PAGE, 9);
	same("cow", cow + 2 * PAGE, PAGE, 8 + 2 * PAGE / 8);
}

/* The program's own file is still the one that was executed. */
static void verify_exe(const char *link, off_t size)
{
	char now[4096] = {0};
	struct stat st = {0};
	if (readlink("/proc/self/exe", now, sizeof now - 1) < 0 || strcmp(now, link) != 0)
		bad("executable: %s, was %s", now, link);
	int fd = open("/proc/self/exe", O_RDONLY);
	char magic[4] = {0};
	if (fd < 0 || read(fd, magic, 4) != 4 || memcmp(magic, "\177ELF", 4) != 0 || fstat(fd, &st) != 0 || st.st_size != size)
		bad("executable: has %ld bytes, had %ld", (long)st.st_size, (long)size);
	close(fd);
}

static void child(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		uint64_t asked = __atomic_load_n(&board->asked, __ATOMIC_ACQUIRE);
		if (asked != board->answered) {
			same("child: code", code, SIZE, 7);
			__atomic_store_n(&board->answered, asked, __ATOMIC_RELEASE);
		}
		pause_ms(1);
	}
}

/* Executes a copy of this program that has no name. */
static void execute_copy(char **argv)
{
	char copy[] = "copy";
	int from = open("/proc/self/exe", O_RDONLY), to;
	int hidden = strcmp(argv[1], "memfd") == 0;
	struct stat st;
	check(from >= 0 && fstat(from, &st) == 0);
	char *text = map(from, (size_t)st.st_size, PROT_READ, MAP_PRIVATE);
	to = hidden ? (int)syscall(SYS_memfd_create, "program", 1) : open(copy, O_WRONLY | O_CREAT | O_EXCL, 0755);
	check(to >= 0 && write(to, text, (size_t)st.st_size) == st.st_size);
	char *args[] = {argv[0], "copied", NULL};
	if (hidden) {
		fexecve(to, args, environ);
	} else {
		close(to);
		execv(copy, args);
	}
	die("execute the copy: %s", strerror(errno));
}

int main(int argc, char **argv)
{
	subject_open();
	if (argc > 1 && strcmp(argv[1], "copied") != 0)
		execute_copy(argv);
	unlink("copy");
	char link[4096] = {0};
	struct stat st;
	check(readlink("/proc/self/exe", link, sizeof link - 1) > 0 && stat("/proc/self/exe", &st) == 0);
	set_up();
	pid_t pid = fork();
	check(pid >= 0);
	if (pid == 0)
		child();
	say("ready");
	for (uint64_t round = 1;; round++) {
		__atomic_store_n(&board->asked, round, __ATOMIC_RELEASE);
		for (int i = 0; __atomic_load_n(&board->answered, __ATOMIC_ACQUIRE) != round; i++) {
			if (i > 5000) {
				bad("the child does not see what is written");
				break;
			}
			pause_ms(1);
		}
		if (asked("break"))
			private[PAGE - 1]++;
		verify_all(round);
		verify_exe(link, st.st_size);
		say("tick %lu", round);
		pause_ms(5);
	}
}
