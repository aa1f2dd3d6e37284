/*
 * A program with internet sockets that have no peer: listening, bound, or
 * neither. It writes their names and options into "before" and, when asked,
 * into "after"; the ports are in the log, and whoever connects or sends gets
 * an answer.
 */
#include "subject.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

enum { MAX_SOCKETS = 8 };

static struct entry {
	const char *name;
	int fd, family, type;
} sockets[MAX_SOCKETS];
static int count;

static const struct {
	const char *name;
	int level, option;
} options[] = {
	{"reuseaddr", SOL_SOCKET, SO_REUSEADDR}, {"reuseport", SOL_SOCKET, SO_REUSEPORT},
	{"keepalive", SOL_SOCKET, SO_KEEPALIVE}, {"broadcast", SOL_SOCKET, SO_BROADCAST},
	{"priority", SOL_SOCKET, SO_PRIORITY},	 {"mark", SOL_SOCKET, SO_MARK},
	{"sndbuf", SOL_SOCKET, SO_SNDBUF},	 {"rcvbuf", SOL_SOCKET, SO_RCVBUF},
	{"rcvlowat", SOL_SOCKET, SO_RCVLOWAT},	 {"oobinline", SOL_SOCKET, SO_OOBINLINE},
	{"listening", SOL_SOCKET, SO_ACCEPTCONN}, {"type", SOL_SOCKET, SO_TYPE},
	{"protocol", SOL_SOCKET, SO_PROTOCOL},	 {"timestamp", SOL_SOCKET, SO_TIMESTAMP},
	{"nodelay", IPPROTO_TCP, TCP_NODELAY},	 {"keepidle", IPPROTO_TCP, TCP_KEEPIDLE},
	{"keepintvl", IPPROTO_TCP, TCP_KEEPINTVL}, {"keepcnt", IPPROTO_TCP, TCP_KEEPCNT},
	{"defer", IPPROTO_TCP, TCP_DEFER_ACCEPT}, {"user timeout", IPPROTO_TCP, TCP_USER_TIMEOUT},
	{"maxseg", IPPROTO_TCP, TCP_MAXSEG},	 {"tos", IPPROTO_IP, IP_TOS},
	{"ttl", IPPROTO_IP, IP_TTL},		 {"freebind", IPPROTO_IP, IP_FREEBIND},
	{"pktinfo", IPPROTO_IP, IP_PKTINFO},	 {"v6only", IPPROTO_IPV6, IPV6_V6ONLY},
	{"hops", IPPROTO_IPV6, IPV6_UNICAST_HOPS}, {"tclass", IPPROTO_IPV6, IPV6_TCLASS},
};

static void set(int fd, int level, int option, int value)
{
	check(setsockopt(fd, level, option, &value, sizeof value) == 0);
}

static int open_socket(const char *name, int family, int type)
{
	int fd = socket(family, type, 0);
	check(fd >= 0 && count < MAX_SOCKETS);
	sockets[count++] = (struct entry){name, fd, family, type & 0xf};
	return fd;
}

static void bind_to(int fd, int family)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	if (family == AF_INET)
		check(bind(fd, (void *)&v4, sizeof v4) == 0);
	else
		check(bind(fd, (void *)&v6, sizeof v6) == 0);
}

static void set_up(void)
{
	struct timeval tv = {3, 500000};
	struct linger linger = {1, 7};
	int fd = open_socket("tcp4 listening", AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
	set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(fd, SOL_SOCKET, SO_RCVBUF, 200000);
	set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 33);
	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set(fd, IPPROTO_IP, IP_TOS, 0x10);
	bind_to(fd, AF_INET);
	check(listen(fd, 33) == 0);
	fd = open_socket("tcp6 listening", AF_INET6, SOCK_STREAM);
	set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	bind_to(fd, AF_INET6);
	check(listen(fd, 5) == 0);
	fd = open_socket("udp4 bound", AF_INET, SOCK_DGRAM);
	set(fd, SOL_SOCKET, SO_BROADCAST, 1);
	set(fd, IPPROTO_IP, IP_PKTINFO, 1);
	set(fd, IPPROTO_IP, IP_TTL, 44);
	bind_to(fd, AF_INET);
	fd = open_socket("udp6 bound", AF_INET6, SOCK_DGRAM);
	set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 55);
	bind_to(fd, AF_INET6);
	fd = open_socket("tcp4 fresh", AF_INET, SOCK_STREAM);
	set(fd, SOL_SOCKET, SO_SNDBUF, 100000);
	check(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
	check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) == 0);
	fd = open_socket("tcp4 bound", AF_INET, SOCK_STREAM);
	bind_to(fd, AF_INET);
	open_socket("udp4 fresh", AF_INET, SOCK_DGRAM);
}

static int port_of(int fd)
{
	struct sockaddr_in6 addr;
	socklen_t length = sizeof addr;
	check(getsockname(fd, (void *)&addr, &length) == 0);
	return ntohs(addr.sin6_port); /* at the same place for both families */
}

static void dump(const char *name)
{
	FILE *out = fopen(name, "we");
	check(out != NULL);
	for (int i = 0; i < count; i++) {
		int fd = sockets[i].fd;
		struct linger linger = {0};
		struct timeval tv = {0};
		socklen_t length = sizeof linger;
		fprintf(out, "%s: fd %d port %d flags %x %x\n", sockets[i].name, fd, port_of(fd), fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
		getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length);
		length = sizeof tv;
		getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &length);
		fprintf(out, "  linger %d %d receive timeout %ld.%06ld\n", linger.l_onoff, linger.l_linger, tv.tv_sec, tv.tv_usec);
		for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
			int value = 0;
			length = sizeof value;
			if (getsockopt(fd, options[o].level, options[o].option, &value, &length) == 0)
				fprintf(out, "  %s %s %d\n", sockets[i].name, options[o].name, value);
		}
	}
	fclose(out);
}

static void answer(struct entry *e)
{
	char text[64], got[16];
	struct sockaddr_storage from;
	socklen_t length = sizeof from;
	int n = snprintf(text, sizeof text, "greetings from %d\n", getpid());
	if (e->type == SOCK_DGRAM) {
		if (recvfrom(e->fd, got, sizeof got, 0, (void *)&from, &length) < 0 || sendto(e->fd, text, n, 0, (void *)&from, length) != n)
			bad("%s: %s", e->name, strerror(errno));
		return;
	}
	int fd = accept(e->fd, NULL, NULL);
	if (fd < 0 || write(fd, text, n) != n)
		bad("%s: %s", e->name, strerror(errno));
	close(fd);
}

int main(void)
{
	subject_open();
	set_up();
	for (int i = 0; i < 4; i++)
		say("port %d %s", port_of(sockets[i].fd), sockets[i].name);
	dump("before");
	say("ready");
	for (long n = 0;; n++) {
		struct pollfd p[4];
		for (int i = 0; i < 4; i++)
			p[i] = (struct pollfd){sockets[i].fd, POLLIN, 0};
		if (poll(p, 4, 10) < 0)
			bad("poll: %s", strerror(errno));
		for (int i = 0; i < 4; i++)
			if (p[i].revents & POLLIN)
				answer(&sockets[i]);
		say("tick %ld", n);
		if (asked("break"))
			set(sockets[0].fd, SOL_SOCKET, SO_KEEPALIVE, 0);
		if (asked("dump") && !asked("after")) {
			dump("after.new");
			rename("after.new", "after");
			say("dumped");
		}
	}
}
