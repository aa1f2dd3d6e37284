/*
 * A program whose files lost their names: deleted, with and without another
 * name, in a deleted directory that it is in, O_TMPFILE, and memory files.
 */
#include "subject.h"

#include <sys/mman.h>

enum { HOLE = 3 << 20 };

static int deleted, again, linked, unnamed, memory, sealed, plain, directory, inside, fifo[2], replaced;
static pid_t child;
static struct stat cwd_was;

static int create(const char *name, const char *text)
{
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0640);
	check(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	return fd;
}

static void want(const char *what, int fd, long offset, const char *text)
{
	char got[64] = {0};
	ssize_t n = pread(fd, got, strlen(text), offset);
	if (n != (ssize_t)strlen(text) || memcmp(got, text, n) != 0)
		bad("%s: read %zd bytes '%s' at %ld, want '%s'", what, n, got, offset, text);
}

static long links(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 ? (long)st.st_nlink : -1;
}

static void set_files(void)
{
	deleted = create("deleted", "first");
	check(pwrite(deleted, "last", 4, HOLE) == 4 && fchmod(deleted, 0604) == 0);
	again = open("deleted", O_RDONLY);
	check(again >= 0 && unlink("deleted") == 0);
	linked = create("linked", "shared");
	check(link("linked", "other name") == 0 && unlink("linked") == 0);
	replaced = create("replaced", "old");
	close(create("replaced.new", "new"));
	check(rename("replaced.new", "replaced") == 0);
	unnamed = open(".", O_TMPFILE | O_RDWR, 0600);
	check(unnamed >= 0 && write(unnamed, "unnamed", 7) == 7);
	check(mkfifo("fifo", 0600) == 0);
	fifo[0] = open("fifo", O_RDONLY | O_NONBLOCK);
	fifo[1] = open("fifo", O_WRONLY);
	check(fifo[0] >= 0 && fifo[1] >= 0 && write(fifo[1], "queued", 6) == 6 && unlink("fifo") == 0);
}

static void set_memory(void)
{
	memory = memfd_create("memory", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	sealed = memfd_create("sealed", MFD_ALLOW_SEALING);
	plain = memfd_create("plain", 0);
	check(memory >= 0 && sealed >= 0 && plain >= 0 && ftruncate(memory, 2 * HOLE) == 0);
	check(pwrite(memory, "middle", 6, HOLE) == 6 && pwrite(plain, "plain", 5, 0) == 5);
	check(pwrite(sealed, "sealed", 6, 0) == 6);
	check(fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) == 0);
}

/* Both processes are in a directory that is gone. */
static void set_directory(void)
{
	check(mkdir("gone", 0750) == 0 && mkdir("gone/deep", 0711) == 0);
	directory = open("gone/deep", O_RDONLY | O_DIRECTORY);
	inside = create("gone/deep/inside", "inside");
	check(directory >= 0 && unlink("gone/deep/inside") == 0);
	check(chdir("gone/deep") == 0 && rmdir("../../gone/deep") == 0);
	child = fork();
	check(child >= 0);
	if (child == 0)
		for (;;)
			pause();
	check(fchdir(AT_FDCWD) == -1 && stat(".", &cwd_was) == 0);
}

static void drain_memory(void)
{
	want("memory", memory, HOLE, "middle");
	want("plain", plain, 0, "plain");
	want("sealed", sealed, 0, "sealed");
	struct stat st;
	if (fstat(memory, &st) != 0 || st.st_size != 2 * HOLE || st.st_blocks > 64)
		bad("memory: %ld bytes in %ld blocks", (long)st.st_size, (long)st.st_blocks);
	if (fcntl(sealed, F_GET_SEALS) != (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
		bad("sealed: seals %x", fcntl(sealed, F_GET_SEALS));
	if (pwrite(sealed, "x", 1, 0) != -1 || errno != EPERM)
		bad("sealed: can be written");
	if (fcntl(plain, F_ADD_SEALS, F_SEAL_GROW) != -1 || errno != EPERM)
		bad("plain: can be sealed");
	if (fcntl(memory, F_ADD_SEALS, F_SEAL_GROW) != 0)
		bad("memory: cannot be sealed: %s", strerror(errno));
}

static void drain_files(int top)
{
	struct stat st;
	want("deleted", deleted, 0, "first");
	want("deleted", again, HOLE, "last");
	if (fstat(deleted, &st) != 0 || st.st_nlink != 0 || (st.st_mode & 07777) != 0604 || st.st_blocks > 64)
		bad("deleted: %ld links, mode %o, %ld blocks", (long)st.st_nlink, st.st_mode, (long)st.st_blocks);
	check(pwrite(deleted, "FIRST", 5, 0) == 5);
	want("deleted, opened twice", again, 0, "FIRST");
	want("linked", linked, 0, "shared");
	check(pwrite(linked, "SHARED", 6, 0) == 6);
	int other = openat(top, "other name", O_RDONLY);
	want("linked, by its other name", other, 0, "SHARED");
	if (links(linked) != 1 || faccessat(top, "linked", F_OK, 0) == 0)
		bad("linked: %ld links", links(linked));
	want("replaced", replaced, 0, "old");
	other = openat(top, "replaced", O_RDONLY);
	want("replaced, the new one", other, 0, "new");
	want("unnamed", unnamed, 0, "unnamed");
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", unnamed);
	if (linkat(AT_FDCWD, path, top, "named", AT_SYMLINK_FOLLOW) != 0)
		bad("unnamed: gets no name: %s", strerror(errno));
	unlinkat(top, "named", 0);
	char got[16] = {0};
	if (read(fifo[0], got, 15) != 6 || strcmp(got, "queued") != 0 || links(fifo[0]) != 0)
		bad("FIFO: '%s', %ld links", got, links(fifo[0]));
}

static void drain_directory(void)
{
	struct stat st, of_child;
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/cwd", child);
	if (stat(".", &st) != 0 || stat(path, &of_child) != 0 || st.st_nlink != 0 || st.st_mode != cwd_was.st_mode)
		bad("current directory: %ld links, mode %o", (long)st.st_nlink, st.st_mode);
	if (st.st_ino != of_child.st_ino)
		bad("current directory: not that of the child");
	if (open("new", O_CREAT | O_WRONLY, 0600) != -1 || errno != ENOENT)
		bad("current directory: files can be made in it");
	if (links(directory) != 0)
		bad("directory: %ld links", links(directory));
	want("inside", inside, 0, "inside");
}

/* The directory of the test is no longer the current one. */
static int there(int top, const char *name) { return faccessat(top, name, F_OK, 0) == 0; }

int main(int argc, char **argv)
{
	subject_open();
	int top = open(".", O_RDONLY | O_DIRECTORY);
	check(top >= 0);
	set_files();
	set_memory();
	set_directory();
	if (argc > 1 && strcmp(argv[1], "damaged") == 0)
		check(pwrite(deleted, "x", 1, 0) == 1);
	if (argc > 1 && strcmp(argv[1], "hidden") == 0) {
		/* The other name is where nobody looks for it. */
		check(mkdirat(top, "a", 0700) == 0 && mkdirat(top, "a/b", 0700) == 0);
		check(renameat(top, "other name", top, "a/b/c") == 0 && symlinkat("a/b/c", top, "other name") == 0);
	}
	say("ready");
	for (long n = 0; !there(top, "drain"); n++) {
		say("tick %ld", n);
		pause_ms(10);
	}
	drain_files(top);
	drain_memory();
	drain_directory();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	say("drained");
	for (;;)
		pause_ms(1000);
}
