/*
 * A program with data in flight: pipes, socket pairs, event counters and epoll
 * sets. It touches none of them until the file "drain" is there; then it reads
 * everything, in order, and goes on with using them.
 */
#include "subject.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { BULK = 50000 };

static int small_pipe[2], big_pipe[2], child_pipe[2];
static int stream[2], datagram[2], packets[2], half_closed[2];
static int counter, semaphore, idle_event, epoll, outer_epoll;
static int file, file_twin, file_alone, dir, ghost, listener, abstract;

static void put(int fd, const char *text)
{
	check(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void want(const char *what, int fd, const char *text)
{
	char got[256] = {0};
	ssize_t n = read(fd, got, sizeof got - 1);
	if (n != (ssize_t)strlen(text) || memcmp(got, text, n) != 0)
		bad("%s: read %zd bytes '%s' (%s), want '%s'", what, n, got, n < 0 ? strerror(errno) : "no error", text);
}

static void want_bytes(const char *what, int fd, const char *text)
{
	char got[256] = {0};
	ssize_t n = read(fd, got, strlen(text));
	if (n != (ssize_t)strlen(text) || memcmp(got, text, n) != 0)
		bad("%s: read %zd bytes '%s', want '%s'", what, n, got, text);
}

static void want_empty(const char *what, int fd)
{
	char c;
	int flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	ssize_t n = read(fd, &c, 1);
	if (n != -1 || errno != EAGAIN)
		bad("%s: read %zd where nothing should be", what, n);
	fcntl(fd, F_SETFL, flags);
}

static void set_pipes(void)
{
	char bulk[BULK], skipped[2];
	check(pipe2(small_pipe, O_CLOEXEC) == 0);
	put(small_pipe[1], "xxfirst ");
	put(small_pipe[1], "second");
	check(read(small_pipe[0], skipped, 2) == 2);
	check(pipe2(big_pipe, O_NONBLOCK) == 0);
	check(fcntl(big_pipe[1], F_SETPIPE_SZ, 256 << 10) == 256 << 10);
	fill(bulk, sizeof bulk, 77);
	for (int i = 0; i < 4; i++)
		check(write(big_pipe[1], bulk, sizeof bulk) == sizeof bulk);
	check(pipe(child_pipe) == 0);
}

static void drain_pipes(void)
{
	char bulk[BULK];
	want("pipe", small_pipe[0], "first second");
	want_empty("pipe", small_pipe[0]);
	put(small_pipe[1], "again");
	want("pipe", small_pipe[0], "again");
	if (fcntl(big_pipe[0], F_GETPIPE_SZ) != 256 << 10)
		bad("pipe: size %d", fcntl(big_pipe[0], F_GETPIPE_SZ));
	for (int i = 0; i < 4; i++)
		if (read(big_pipe[0], bulk, sizeof bulk) != sizeof bulk || verify(bulk, sizeof bulk, 77) >= 0)
			bad("pipe: bulk %d differs", i);
	if (!(fcntl(big_pipe[0], F_GETFL) & O_NONBLOCK) || (fcntl(small_pipe[0], F_GETFL) & O_NONBLOCK))
		bad("pipe: status flags %x %x", fcntl(big_pipe[0], F_GETFL), fcntl(small_pipe[0], F_GETFL));
	if (!(fcntl(small_pipe[0], F_GETFD) & FD_CLOEXEC) || (fcntl(big_pipe[0], F_GETFD) & FD_CLOEXEC))
		bad("pipe: descriptor flags %x %x", fcntl(small_pipe[0], F_GETFD), fcntl(big_pipe[0], F_GETFD));
}

static int bind_listener(const char *name, size_t length)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	memcpy(addr.sun_path, name, length);
	check(fd >= 0 && bind(fd, (void *)&addr, offsetof(struct sockaddr_un, sun_path) + length) == 0);
	check(listen(fd, 17) == 0);
	return fd;
}

static void set_sockets(void)
{
	int on = 1, size = 300000;
	char name[64];
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
	put(stream[0], "to one ");
	put(stream[0], "end");
	put(stream[1], "to the other");
	check(setsockopt(stream[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
	check(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram) == 0);
	check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets) == 0);
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "message %d", i);
		put(datagram[0], name);
		put(packets[1], name);
	}
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, half_closed) == 0);
	check(setsockopt(half_closed[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
	put(half_closed[0], "last words");
	check(shutdown(half_closed[0], SHUT_WR) == 0);
	listener = bind_listener("listener.sock", sizeof "listener.sock");
	snprintf(name, sizeof name, "%cfirn-queues-%d", 0, getpid());
	abstract = bind_listener(name, 1 + strlen(name + 1));
}

static void connect_to(const char *what, int fd)
{
	struct sockaddr_un addr;
	socklen_t length = sizeof addr;
	int client = socket(AF_UNIX, SOCK_STREAM, 0);
	if (getsockname(fd, (void *)&addr, &length) != 0 || connect(client, (void *)&addr, length) != 0) {
		bad("%s: connect: %s", what, strerror(errno));
		return;
	}
	int server = accept(fd, NULL, NULL);
	put(client, "hello");
	want(what, server, "hello");
	close(client);
	close(server);
}

static void drain_sockets(void)
{
	char name[32];
	int on = 0, size = 0;
	socklen_t length = sizeof on;
	want("stream", stream[1], "to one end");
	want("stream", stream[0], "to the other");
	want_empty("stream", stream[0]);
	put(stream[0], "more");
	want("stream", stream[1], "more");
	getsockopt(half_closed[0], SOL_SOCKET, SO_PASSCRED, &on, &length);
	getsockopt(stream[1], SOL_SOCKET, SO_SNDBUF, &size, &length);
	if (on != 1 || size < 300000)
		bad("socket pairs: options %d %d", on, size);
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof name, "message %d", i);
		want("datagram", datagram[1], name);
		want("seqpacket", packets[0], name);
	}
	want_empty("datagram", datagram[1]);
	put(packets[0], "back");
	want("seqpacket", packets[1], "back");
	want("half closed", half_closed[1], "last words");
	want("half closed", half_closed[1], "");
	put(half_closed[1], "still open");
	want("half closed", half_closed[0], "still open");
	connect_to("listener", listener);
	connect_to("abstract listener", abstract);
}

static void member(int set, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};
	check(epoll_ctl(set, EPOLL_CTL_ADD, fd, &ev) == 0);
}

static void set_events(void)
{
	counter = eventfd(41, EFD_NONBLOCK);
	semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
	idle_event = eventfd(0, 0);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	outer_epoll = epoll_create1(0);
	check(counter >= 0 && semaphore >= 0 && idle_event >= 0 && epoll >= 0 && outer_epoll >= 0);
	uint64_t one = 1;
	check(write(counter, &one, 8) == 8);
	member(epoll, counter, EPOLLIN, 0x1111222233334444u);
	member(epoll, idle_event, EPOLLIN | EPOLLET, 0x5555666677778888u);
	member(epoll, stream[1], EPOLLIN | EPOLLRDHUP, 3);
	/* A descriptor that is known to the set under an old number. */
	int moved = dup(idle_event);
	member(epoll, moved, EPOLLIN | EPOLLONESHOT, 4);
	member(outer_epoll, epoll, EPOLLIN, 5);
}

static void wait_for(const char *what, int set, const uint64_t *want, int count)
{
	struct epoll_event got[8];
	int n = epoll_wait(set, got, 8, 1000);
	if (n != count)
		bad("%s: %d events (%s), want %d", what, n, n < 0 ? strerror(errno) : "no error", count);
	for (int i = 0; i < count; i++) {
		int found = 0;
		for (int j = 0; j < n; j++)
			found += got[j].data.u64 == want[i];
		if (found != 1)
			bad("%s: event %lx came %d times", what, want[i], found);
	}
}

static void drain_events(void)
{
	uint64_t value = 0, one = 1;
	/* Before the sockets are drained. */
	wait_for("epoll", epoll, (uint64_t[]){0x1111222233334444u, 3}, 2);
	wait_for("outer epoll", outer_epoll, (uint64_t[]){5}, 1);
	if (read(counter, &value, 8) != 8 || value != 42)
		bad("eventfd: %lu, want 42", value);
	for (int i = 0; i < 3; i++)
		if (read(semaphore, &value, 8) != 8 || value != 1)
			bad("eventfd semaphore: %lu", value);
	if (read(semaphore, &value, 8) != -1 || errno != EAGAIN)
		bad("eventfd semaphore: more than 3");
	check(write(idle_event, &one, 8) == 8);
	wait_for("epoll", epoll, (uint64_t[]){0x5555666677778888u, 3, 4}, 3);
	wait_for("epoll, edge passed, one shot", epoll, (uint64_t[]){3}, 1);
}

static void set_files(void)
{
	file = open("data", O_RDWR | O_CREAT | O_TRUNC, 0640);
	put(file, "0123456789");
	check(lseek(file, 3, SEEK_SET) == 3);
	file_twin = dup(file);
	file_alone = open("data", O_RDONLY | O_CLOEXEC);
	dir = open(".", O_RDONLY | O_DIRECTORY);
	ghost = open("ghost", O_RDWR | O_CREAT | O_TRUNC, 0600);
	put(ghost, "not in any directory");
	check(unlink("ghost") == 0);
	check(file >= 0 && file_twin >= 0 && file_alone >= 0 && dir >= 0 && ghost >= 0);
	check(fcntl(200, F_GETFD) == -1 && dup2(file_alone, 200) == 200);
}

static void drain_files(void)
{
	want_bytes("file", file, "34");
	want_bytes("file, through its twin", file_twin, "567");
	want_bytes("file, opened again", file_alone, "01");
	want_bytes("file, at number 200", 200, "23");
	if (lseek(ghost, 0, SEEK_CUR) != 20)
		bad("deleted file: offset %ld", (long)lseek(ghost, 0, SEEK_CUR));
	lseek(ghost, 0, SEEK_SET);
	want("deleted file", ghost, "not in any directory");
	struct stat st;
	if (fstat(ghost, &st) != 0 || st.st_nlink != 0)
		bad("deleted file: %ld links", (long)st.st_nlink);
	if (faccessat(dir, "data", F_OK, 0) != 0)
		bad("directory: %s", strerror(errno));
	int null = open("/dev/null", O_WRONLY);
	put(null, "gone");
	close(null);
}

/* A child shares the descriptions: what one reads the other does not see. */
static void child_main(void)
{
	for (;;) {
		char c;
		if (read(child_pipe[0], &c, 1) != 1)
			_exit(0);
		if (c == 'r')
			want_bytes("file, in the child", file, "89");
		if (c == 'q')
			_exit(33);
	}
}

int main(int argc, char **argv)
{
	(void)argv;
	subject_open();
	set_pipes();
	set_sockets();
	set_events();
	set_files();
	pid_t child = fork();
	check(child >= 0);
	if (child == 0)
		child_main();
	if (argc > 1)
		put(stream[0], "!"); /* wrong on purpose, for the test of this subject */
	say("ready");
	for (long n = 0;; n++) {
		say("tick %ld", n);
		pause_ms(10);
		if (asked("drain"))
			break;
	}
	drain_pipes();
	drain_events();
	drain_sockets();
	drain_files();
	put(child_pipe[1], "rq");
	int status = 0;
	if (waitpid(child, &status, 0) != child || status != 33 << 8)
		bad("child: status %x", status);
	if (lseek(file_twin, 0, SEEK_CUR) != 10)
		bad("file: offset %ld after the child read", (long)lseek(file_twin, 0, SEEK_CUR));
	say("drained");
	for (;;)
		pause_ms(1000);
}
