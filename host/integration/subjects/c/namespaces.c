/*
 * A program with files of namespaces: of all that it is in, and of the UTS
 * namespace that it left. They must be what they were after a restore.
 */
#include "subject.h"

#include <sys/utsname.h>

static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
enum { COUNT = sizeof names / sizeof *names };
static int own[COUNT], left;
static char left_name[65];

static int open_namespace(const char *name)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/ns/%s", name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void compare(void)
{
	for (int i = 0; i < COUNT; i++) {
		struct stat was, is;
		int now = open_namespace(names[i]);
		if (fstat(own[i], &was) != 0 || fstat(now, &is) != 0 || was.st_ino != is.st_ino || was.st_dev != is.st_dev)
			bad("%s: the file is of namespace %lu, the program is in %lu", names[i], (long)was.st_ino, (long)is.st_ino);
		close(now);
	}
}

/* Goes to the namespace that it left, and comes back. */
static void travel(void)
{
	struct utsname u;
	if (setns(left, CLONE_NEWUTS) != 0 || uname(&u) != 0 || strcmp(u.nodename, left_name) != 0)
		bad("uts, outside: host name %s, want %s: %s", u.nodename, left_name, strerror(errno));
	if (setns(own[COUNT - 1], CLONE_NEWUTS) != 0 || uname(&u) != 0 || strcmp(u.nodename, "firn-inside") != 0)
		bad("uts, inside: host name %s: %s", u.nodename, strerror(errno));
}

int main(int argc, char **argv)
{
	(void)argv;
	struct utsname u;
	subject_open();
	check(uname(&u) == 0);
	memcpy(left_name, u.nodename, sizeof left_name);
	left = open_namespace("uts");
	check(unshare(CLONE_NEWUTS) == 0 && sethostname("firn-inside", 11) == 0);
	for (int i = 0; i < COUNT; i++)
		check((own[i] = open_namespace(names[i])) >= 0);
	if (argc > 1)
		check(dup2(left, own[COUNT - 1]) >= 0); /* wrong on purpose, for the test of this subject */
	say("ready");
	for (long n = 0; !asked("drain"); n++) {
		say("tick %ld", n);
		pause_ms(10);
	}
	compare();
	travel();
	say("drained");
	for (;;)
		pause_ms(1000);
}
