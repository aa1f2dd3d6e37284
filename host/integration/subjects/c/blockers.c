/*
 * A program that has what a checkpoint cannot carry, by the names given as
 * arguments. It writes which descriptor is which ("fd N NAME") and ticks.
 */
#include "subject.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/socket.h>

static void tell(int fd, const char *name)
{
	if (fd < 0)
		say("unavailable %s: %s", name, strerror(errno));
	else
		say("fd %d %s", fd, name);
}

/* Nobody has opened the slave yet. */
static void open_pty(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	check(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
	tell(master, "ptmx");
}

/* Both ends of a connection over the loopback. */
static void open_tcp(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof addr;
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
	check(bind(listener, (void *)&addr, sizeof addr) == 0 && listen(listener, 1) == 0);
	check(getsockname(listener, (void *)&addr, &length) == 0);
	check(connect(client, (void *)&addr, sizeof addr) == 0);
	int server = accept(listener, NULL, NULL);
	check(server >= 0);
	close(listener);
	tell(client, "tcp");
	tell(server, "tcp");
}

/* An instance with an event that nobody reads. */
static void open_inotify(void)
{
	int fd = inotify_init1(IN_CLOEXEC);
	check(fd >= 0 && inotify_add_watch(fd, ".", IN_CREATE) >= 0);
	check(mkdir("unread", 0700) == 0);
	tell(fd, "inotify");
}

static void open_uring(void)
{
	struct io_uring_params params;
	memset(&params, 0, sizeof params);
	tell((int)syscall(SYS_io_uring_setup, 8, &params), "io_uring");
}

static void open_userfaultfd(void)
{
	tell((int)syscall(SYS_userfaultfd, O_CLOEXEC), "userfaultfd");
}

static void open_packet(void)
{
	struct tpacket_req ring = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd >= 0)
		check(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) == 0);
	tell(fd, "packet socket");
}

static const struct {
	const char *name;
	void (*open)(void);
} kinds[] = {
	{"pty", open_pty},
	{"tcp", open_tcp},
	{"inotify", open_inotify},
	{"io_uring", open_uring},
	{"userfaultfd", open_userfaultfd},
	{"packet", open_packet},
};

int main(int argc, char **argv)
{
	subject_open();
	for (int i = 1; i < argc; i++)
		for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
			if (strcmp(argv[i], kinds[k].name) == 0)
				kinds[k].open();
	say("ready");
	for (long n = 0;; n++) {
		say("tick %ld", n);
		pause_ms(10);
	}
}
