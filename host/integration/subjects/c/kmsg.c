/*
 * Reads the kernel's log, and verifies that no message is missing and none comes
 * twice. Asked to "drain" it writes one, which must come, too.
 */
#include "subject.h"

static int in, out;
static unsigned long long last;
static int found;

static void read_all(const char *mark)
{
	char line[16384];
	ssize_t n;
	while ((n = read(in, line, sizeof line - 1)) > 0) {
		unsigned long long number = 0;
		line[n] = 0;
		if (sscanf(line, "%*u,%llu,", &number) != 1 || (last && number != last + 1))
			bad("message %llu follows %llu", number, last);
		last = number;
		if (mark && strstr(line, mark))
			found = 1;
	}
	if (errno != EAGAIN)
		bad("read: %s", strerror(errno));
}

int main(void)
{
	char mark[64];
	subject_open();
	snprintf(mark, sizeof mark, "firn-subject-%d\n", getpid());
	in = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	out = open("/dev/kmsg", O_WRONLY);
	/* From the end on: the oldest messages may be overwritten while they are read. */
	check(in >= 0 && lseek(in, 0, SEEK_END) == 0);
	check(out >= 0 && write(out, mark, strlen(mark)) == (ssize_t)strlen(mark));
	read_all(NULL);
	say("ready");
	for (long n = 0; !asked("drain"); n++) {
		read_all(NULL);
		say("tick %ld", n);
		pause_ms(5);
	}
	check(write(out, mark, strlen(mark)) == (ssize_t)strlen(mark));
	read_all(mark);
	if (!found)
		bad("the last message did not come");
	say("drained");
	return 0;
}
