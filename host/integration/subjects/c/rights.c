/*
 * A program that passes files and sockets through sockets: messages in queues of
 * every type carry descriptors (SCM_RIGHTS), of which some are in no other place,
 * a socket is in flight in its own queue, and one in the queue of another in flight.
 * It receives nothing until the file "drain" is there.
 */
#include "subject.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static int stream[2], datagram[2], packets[2], own[2], outer[2], later[2], told[2], named;
static int shared_file, pipe_end, port;

/* Sends text with some descriptors, in one control message or one for each. */
static void pass(int fd, const char *text, int apart, int count, const int *fds, const struct sockaddr_un *to, socklen_t len)
{
	union {
		struct cmsghdr align;
		char bytes[512];
	} control = {0};
	struct iovec iov = {(void *)text, strlen(text)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_name = (void *)to, .msg_namelen = len, .msg_control = control.bytes};
	struct cmsghdr *c = (struct cmsghdr *)control.bytes;
	int per = apart ? 1 : count;
	for (int i = 0; i < count; i += per) {
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(per * sizeof(int));
		memcpy(CMSG_DATA(c), fds + i, per * sizeof(int));
		m.msg_controllen += CMSG_SPACE(per * sizeof(int));
		c = (struct cmsghdr *)(control.bytes + m.msg_controllen);
	}
	check(sendmsg(fd, &m, 0) == (ssize_t)iov.iov_len);
}

/* Receives and requires text with count descriptors. */
static int take(const char *what, int fd, const char *text, int count, int *fds)
{
	char got[256] = {0};
	union {
		struct cmsghdr align;
		char bytes[512];
	} control;
	struct iovec iov = {got, sizeof got - 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
	ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
	int have = 0;
	if (n >= 0)
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c != NULL; c = CMSG_NXTHDR(&m, c)) {
			int some = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			for (int i = 0; i < some && c->cmsg_type == SCM_RIGHTS; i++)
				if (have < 16)
					memcpy(&fds[have++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
		}
	if (n != (ssize_t)strlen(text) || memcmp(got, text, strlen(text)) != 0 || have != count) {
		bad("%s: received %zd bytes '%s' with %d descriptors (%s), want '%s' with %d", what, n, got, have,
		    n < 0 ? strerror(errno) : "no error", text, count);
		return 0;
	}
	return 1;
}

static void reads(const char *what, int fd, const char *text)
{
	char got[256] = {0};
	ssize_t n = read(fd, got, strlen(text));
	if (n != (ssize_t)strlen(text) || memcmp(got, text, n) != 0)
		bad("%s: read %zd bytes '%s', want '%s'", what, n, got, text);
}

static void put(int fd, const char *text)
{
	check(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void send_stream(void)
{
	int p[2], fds[3];
	check(pipe(p) == 0);
	put(p[1], "through the pipe");
	pipe_end = p[1];
	put(stream[0], "before");
	fds[0] = p[0];
	fds[1] = shared_file;
	pass(stream[0], "with two", 0, 2, fds, NULL, 0);
	close(p[0]); /* in flight only */
	put(stream[0], "between");
	fds[0] = eventfd(41, EFD_NONBLOCK);
	fds[1] = fds[2] = open("own", O_RDWR | O_CREAT | O_TRUNC, 0600);
	put(fds[1], "0123456789");
	check(lseek(fds[1], 4, SEEK_SET) == 4 && flock(fds[1], LOCK_EX) == 0);
	pass(stream[0], "x", 1, 3, fds, NULL, 0);
	close(fds[0]);
	close(fds[1]);
	put(stream[0], "after");
	put(stream[1], "the other way");
}

static int tcp_listener(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	check(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 5) == 0);
	check(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	port = ntohs(a.sin_port);
	return fd;
}

static void send_messages(void)
{
	int fds[3], inner[2];
	fds[0] = tcp_listener();
	fds[1] = (int)syscall(SYS_memfd_create, "in flight", 0);
	put(fds[1], "memory file");
	pass(packets[0], "packet one", 0, 2, fds, NULL, 0);
	close(fds[0]);
	close(fds[1]);
	put(packets[0], "packet two");
	fds[0] = own[1];
	pass(own[0], "myself", 0, 1, fds, NULL, 0); /* own[1] in the queue of own[1] */

	/* inner[1] is in the queue of outer[1] only, and has a file in its own. */
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, inner) == 0);
	fds[0] = shared_file;
	pass(inner[0], "nested", 0, 1, fds, NULL, 0);
	fds[0] = inner[1];
	fds[1] = inner[0];
	pass(outer[0], "sockets", 0, 2, fds, NULL, 0);
	close(inner[0]);
	close(inner[1]);

	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int len = snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "firn-rights-%d", getpid());
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len);
	named = socket(AF_UNIX, SOCK_DGRAM, 0);
	check(bind(named, (struct sockaddr *)&a, size) == 0);
	fds[0] = shared_file;
	pass(datagram[0], "pair", 0, 1, fds, NULL, 0);
	int stranger = socket(AF_UNIX, SOCK_DGRAM, 0);
	pass(stranger, "first", 0, 1, fds, &a, size);
	pass(stranger, "addressed", 0, 1, fds, &a, size);
	close(stranger);
}

/* Messages of the program and of a child, for one who wants to know from whom. */
static pid_t child;

static void send_told(void)
{
	int on = 1, p[2];
	char c;
	check(socketpair(AF_UNIX, SOCK_DGRAM, 0, told) == 0 && pipe(p) == 0);
	check(setsockopt(told[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
	put(told[0], "mine");
	child = fork();
	check(child >= 0);
	if (child == 0) {
		check(setresgid(11, 11, 11) == 0 && setresuid(12, 12, 12) == 0);
		put(told[0], "the child's");
		check(write(p[1], "x", 1) == 1);
		for (;;)
			pause();
	}
	check(read(p[0], &c, 1) == 1);
	close(p[0]);
	close(p[1]);
}

static void take_told(const char *text, pid_t pid, uid_t uid, gid_t gid)
{
	char got[64] = {0};
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov = {got, sizeof got - 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
	ssize_t n = recvmsg(told[1], &m, MSG_DONTWAIT);
	struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
	struct ucred u = {0};
	if (c != NULL && c->cmsg_type == SCM_CREDENTIALS)
		memcpy(&u, CMSG_DATA(c), sizeof u);
	if (n != (ssize_t)strlen(text) || memcmp(got, text, n) != 0 || u.pid != pid || u.uid != uid || u.gid != gid)
		bad("told: received '%s' of process %d, user %d, group %d; want '%s' of %d, %d, %d", got, u.pid, u.uid, u.gid, text, pid, uid, gid);
}

/* The descriptor is of the description that the program has as well. */
static void is_shared(const char *what, int fd)
{
	long at = lseek(shared_file, 0, SEEK_CUR);
	lseek(fd, at + 1, SEEK_SET);
	if (lseek(shared_file, 0, SEEK_CUR) != at + 1)
		bad("%s: is another description", what);
	lseek(fd, at, SEEK_SET);
	close(fd);
}

static void receive_stream(void)
{
	int fds[16];
	reads("stream", stream[1], "before"); /* and not one byte of what has descriptors */
	if (take("stream", stream[1], "with two", 2, fds)) {
		reads("pipe", fds[0], "through the pipe");
		put(pipe_end, "again");
		reads("pipe", fds[0], "again");
		is_shared("stream", fds[1]);
	}
	if (take("stream", stream[1], "betweenx", 3, fds)) {
		uint64_t count = 0;
		if (read(fds[0], &count, sizeof count) != sizeof count || count != 41)
			bad("eventfd: counted %lu", count);
		reads("file in flight", fds[1], "456");
		reads("file in flight, twice", fds[2], "789");
		int other = open("own", O_RDWR);
		if (flock(other, LOCK_EX | LOCK_NB) == 0)
			bad("file in flight: is not locked any more");
		close(other);
	}
	take("stream", stream[1], "after", 0, fds);
	take("stream, back", stream[0], "the other way", 0, fds);
}

static void receive_messages(void)
{
	int fds[16];
	char c;
	if (take("packets", packets[1], "packet one", 2, fds)) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
		int client = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(client, (struct sockaddr *)&a, sizeof a) != 0 || write(client, "c", 1) != 1)
			bad("listener in flight: %s", strerror(errno));
		int server = accept(fds[0], NULL, NULL);
		if (read(server, &c, 1) != 1 || c != 'c')
			bad("listener in flight: accepts nothing");
		lseek(fds[1], 0, SEEK_SET);
		reads("memory file in flight", fds[1], "memory file");
	}
	take("packets", packets[1], "packet two", 0, fds);
	if (take("own queue", own[1], "myself", 1, fds)) {
		put(own[0], "hello");
		reads("received from its own queue", fds[0], "hello");
	}
	if (take("outer", outer[1], "sockets", 2, fds)) {
		int more[16], in = fds[0];
		put(fds[1], "through");
		if (take("inner", in, "nested", 1, more))
			is_shared("inner", more[0]);
		reads("inner", in, "through");
	}
	if (take("datagram", datagram[1], "pair", 1, fds))
		is_shared("datagram", fds[0]);
	if (take("named", named, "first", 1, fds))
		is_shared("named, first", fds[0]);
	if (take("named", named, "addressed", 1, fds))
		is_shared("named", fds[0]);
}

int main(int argc, char **argv)
{
	(void)argv;
	subject_open();
	shared_file = open("data", O_RDWR | O_CREAT | O_TRUNC, 0600);
	put(shared_file, "shared");
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram) == 0);
	check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, own) == 0);
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, outer) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, later) == 0);
	send_stream();
	send_messages();
	send_told();
	if (argc > 1)
		put(own[0], "!"); /* wrong on purpose, for the test of this subject */
	say("ready");
	for (long n = 0;; n++) {
		say("tick %ld", n);
		pause_ms(10);
		if (asked("drain"))
			break;
	}
	receive_stream();
	receive_messages();
	take_told("mine", getpid(), getuid(), getgid());
	take_told("the child's", child, 12, 11);
	/* It goes on as it did. */
	int fds[16];
	pass(later[0], "later", 0, 1, &shared_file, NULL, 0);
	if (take("later", later[1], "later", 1, fds))
		is_shared("later", fds[0]);
	say("drained");
	for (;;)
		pause_ms(1000);
}
