/*
 * A program with regular files: one that it owns alone ("data"), which it
 * verifies when asked to, and one that it reads as it grows ("growing").
 */
#include "subject.h"

static int data, twin, growing;

static void want(const char *what, int fd, long offset, const char *text)
{
	char got[64] = {0};
	ssize_t n = pread(fd, got, sizeof got - 1, offset);
	if (n != (ssize_t)strlen(text) || memcmp(got, text, n) != 0)
		bad("%s: read %zd bytes '%s' at %ld, want '%s'", what, n, got, offset, text);
}

static void drain(void)
{
	struct stat open_file, named;
	int again = open("data", O_RDONLY);
	want("data", data, 0, "the content of data");
	want("data, by its name", again, 0, "the content of data");
	if (fstat(data, &open_file) != 0 || fstat(again, &named) != 0 || open_file.st_ino != named.st_ino || open_file.st_nlink != 1)
		bad("data: the name leads to inode %lu, inode %lu is open", (long)named.st_ino, (long)open_file.st_ino);
	if ((open_file.st_mode & 07777) != 0604 || open_file.st_mtime != 1000)
		bad("data: mode %o, modified at %ld", open_file.st_mode, (long)open_file.st_mtime);
	if (lseek(data, 0, SEEK_CUR) != 4 || lseek(twin, 0, SEEK_CUR) != 11)
		bad("data: offsets %ld and %ld", (long)lseek(data, 0, SEEK_CUR), (long)lseek(twin, 0, SEEK_CUR));
	check(write(data, "CONTENT", 7) == 7);
	want("data, written", twin, 4, "CONTENT of data");
}

int main(int argc, char **argv)
{
	(void)argv;
	subject_open();
	data = open("data", O_RDWR | O_CREAT | O_EXCL, 0600);
	check(data >= 0 && write(data, "the content of data", 19) == 19);
	check(fchmod(data, 0604) == 0 && lseek(data, 4, SEEK_SET) == 4);
	twin = open("data", O_RDONLY);
	check(lseek(twin, 11, SEEK_SET) == 11);
	check(futimens(data, (struct timespec[]){{1000, 0}, {1000, 0}}) == 0);
	growing = open("growing", O_RDONLY | O_CREAT, 0644);
	check(twin >= 0 && growing >= 0);
	if (argc > 1)
		check(pwrite(data, "T", 1, 0) == 1); /* wrong on purpose, for the test of this subject */
	say("ready");
	for (long n = 0; !asked("drain"); n++) {
		say("tick %ld", n);
		pause_ms(10);
	}
	drain();
	say("drained");
	for (;;)
		pause_ms(1000);
}
