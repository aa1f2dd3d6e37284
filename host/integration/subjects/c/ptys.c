/*
 * A program with pseudo-terminals, both ends of them: odd modes, window sizes,
 * packet mode, locks, what waits in both directions, ends that were closed, a
 * session with a controlling terminal and jobs. It touches none of them until
 * the file "drain" is there; then it compares and reads everything.
 *
 * With the argument "plain", there is no input that quotes or Ctrl-D were needed
 * for, and no stopped job; with "damaged", it is wrong on purpose.
 */
#include "subject.h"

#include <asm/termbits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

enum { RAW, CANON, ECHOING, PACKET, LOCKED, CLOSED, HUNG, IDLE, COUNT, BULK = 9000, INPUT = 254 };

static struct pty {
	int master, slave, index;
	char path[32];
	char before[512];
} ptys[COUNT];

static char bulk[BULK], input[INPUT];
static int plain;

/*
 * The kernel gives the lowest number that is free. Who opens a pseudo-terminal
 * between a checkpoint and the restore shall not get one of ours: they are high.
 */
static int open_master(void)
{
	int low[200], count = 0, index, fd;
	do {
		fd = open("/dev/ptmx", O_RDWR | O_NOCTTY);
		check(fd >= 0 && ioctl(fd, TIOCGPTN, &index) == 0);
		low[count++] = fd;
	} while (index < 60 + getpid() % 100);
	while (--count > 0)
		close(low[count - 1]);
	return fd;
}

static void open_pty(struct pty *p)
{
	int off = 0;
	p->master = open_master();
	check(ioctl(p->master, TIOCSPTLCK, &off) == 0);
	check(ioctl(p->master, TIOCGPTN, &p->index) == 0);
	snprintf(p->path, sizeof p->path, "/dev/pts/%d", p->index);
	p->slave = open(p->path, O_RDWR | O_NOCTTY);
	check(p->slave >= 0);
}

/* Everything of a terminal that can be read, as text. */
static void describe(struct pty *p, char *text, size_t size)
{
	struct termios2 t;
	struct winsize w;
	struct stat st;
	int packet, lock, index, flags = fcntl(p->master, F_GETFL), exclusive = -1;
	memset(&t, 0, sizeof t);
	if (ioctl(p->master, TCGETS2, &t) || ioctl(p->master, TIOCGWINSZ, &w) || ioctl(p->master, TIOCGPKT, &packet) ||
	    ioctl(p->master, TIOCGPTLCK, &lock) || ioctl(p->master, TIOCGPTN, &index) || stat(p->path, &st))
		bad("state of %s: %s", p->path, strerror(errno));
	if (p->slave >= 0 && ioctl(p->slave, TIOCGEXCL, &exclusive))
		bad("TIOCGEXCL of %s: %s", p->path, strerror(errno));
	int n = snprintf(text, size, "index %d flags %x,%x modes %x %x %x %x line %d speeds %u %u window %d %d %d %d packet %d lock %d exclusive %d mode %o owner %d %d cc",
		index, flags, p->slave < 0 ? 0 : fcntl(p->slave, F_GETFL), t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag, t.c_line, t.c_ispeed, t.c_ospeed,
		w.ws_row, w.ws_col, w.ws_xpixel, w.ws_ypixel, packet, lock, exclusive, st.st_mode, st.st_uid, st.st_gid);
	for (size_t i = 0; i < sizeof t.c_cc; i++)
		n += snprintf(text + n, size - n, " %d", t.c_cc[i]);
}

static struct termios2 mode(struct pty *p)
{
	struct termios2 t;
	check(ioctl(p->slave, TCGETS2, &t) == 0);
	return t;
}

static void put(int fd, const void *data, size_t size)
{
	check(write(fd, data, size) == (ssize_t)size);
}

#define puts_to(fd, text) put(fd, text, sizeof text - 1)

/* The line discipline is given input by a thread of the kernel. */
static void settle(int fd, int bytes)
{
	int n = -1;
	for (int i = 0; i < 2000 && (ioctl(fd, FIONREAD, &n) != 0 || n < bytes); i++)
		pause_ms(1);
	check(n == bytes);
}

static void want(const char *what, int fd, const void *data, size_t size)
{
	char got[BULK];
	size_t have = 0;
	while (have < size) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (poll(&p, 1, 5000) != 1) {
			bad("%s: only %zu of %zu bytes", what, have, size);
			return;
		}
		ssize_t n = read(fd, got + have, size - have);
		if (n <= 0) {
			bad("%s: read gives %zd (%s) after %zu of %zu bytes", what, n, strerror(errno), have, size);
			return;
		}
		have += n;
	}
	if (memcmp(got, data, size) != 0)
		bad("%s: other bytes: '%.60s'", what, got);
}

/* One read must get exactly this. */
static void want_line(const char *what, int fd, const void *data, size_t size)
{
	char got[5000];
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, 5000) != 1) {
		bad("%s: nothing to read", what);
		return;
	}
	ssize_t n = read(fd, got, sizeof got);
	if (n != (ssize_t)size || memcmp(got, data, size) != 0)
		bad("%s: read %zd bytes '%.*s'", what, n, (int)(n < 0 ? 0 : n), got);
}

#define want_text(what, fd, text) want_line(what, fd, text, sizeof text - 1)

static void want_empty(const char *what, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, 0) != 0)
		bad("%s: events %x where nothing should be", what, p.revents);
}

static void set_raw(struct pty *p)
{
	struct termios2 t = mode(p);
	struct winsize w = {33, 77, 123, 456};
	t.c_iflag = IGNBRK | ISTRIP;
	t.c_oflag = 0;
	t.c_lflag = TOSTOP | NOFLSH;
	t.c_cflag = (t.c_cflag & ~CBAUD) | BOTHER | HUPCL;
	t.c_ispeed = t.c_ospeed = 31250;
	t.c_cc[VMIN] = 7;
	t.c_cc[VTIME] = 3;
	t.c_cc[VSTOP] = 's';
	t.c_iflag &= ~ISTRIP;
	check(ioctl(p->slave, TCSETS2, &t) == 0 && ioctl(p->master, TIOCSWINSZ, &w) == 0);
	check(fchown(p->slave, 12, 34) == 0 && fchmod(p->slave, 0620) == 0);
	check(fcntl(p->slave, F_SETFL, fcntl(p->slave, F_GETFL) | O_NONBLOCK) == 0);
	for (int i = 0; i < INPUT; i++)
		input[i] = 255 - i;
	put(p->master, input, INPUT);
	settle(p->slave, INPUT);
	check(fcntl(p->slave, F_SETFL, fcntl(p->slave, F_GETFL) & ~O_NONBLOCK) == 0);
	put(p->slave, bulk, BULK); /* more than the line discipline holds */
	check(fcntl(p->master, F_SETFL, fcntl(p->master, F_GETFL) | O_NONBLOCK) == 0);
}

static void drain_raw(struct pty *p)
{
	check(fcntl(p->slave, F_SETFL, fcntl(p->slave, F_GETFL) | O_NONBLOCK) == 0);
	want("raw output", p->master, bulk, BULK);
	want("raw input", p->slave, input, INPUT);
	want_empty("raw output", p->master);
	want_empty("raw input", p->slave);
	puts_to(p->master, "0123456789");
	want("raw input afterwards", p->slave, "0123456789", 10);
	puts_to(p->slave, "x\ny");
	want("raw output afterwards", p->master, "x\ny", 3);
}

static void set_canon(struct pty *p)
{
	struct termios2 t = mode(p);
	t.c_iflag = ICRNL;
	t.c_lflag = ICANON | IEXTEN | ISIG;
	t.c_cc[VEOL] = '|';
	t.c_cc[VERASE] = '#';
	check(ioctl(p->slave, TCSETS2, &t) == 0);
	puts_to(p->master, "first line\nwith|second lin#ne\n");
	int complete = 11 + 5 + 12;
	if (!plain) {
		/* Ended by Ctrl-D; a line break and a Ctrl-D that are part of a line. */
		puts_to(p->master, "half\004");
		puts_to(p->master, "a\026\nb\026\004c\n");
		puts_to(p->master, "\004");
		complete += 4 + 6;
	}
	settle(p->slave, complete);
	puts_to(p->master, "to be editet");
}

static void drain_canon(struct pty *p)
{
	want_text("line", p->slave, "first line\n");
	want_text("line with a terminator of its own", p->slave, "with|");
	want_text("line", p->slave, "second line\n");
	if (!plain) {
		want_text("line ended by VEOF", p->slave, "half");
		want("line with quoted characters", p->slave, "a\nb\004c\n", 6);
		want_text("end-of-file", p->slave, "");
	}
	want_empty("input", p->slave);
	puts_to(p->master, "#d\n");
	want_text("edited line", p->slave, "to be edited\n");
	want_empty("output without echo", p->master);
}

static void set_echoing(struct pty *p)
{
	puts_to(p->master, "echo");
	settle(p->master, 4);
	puts_to(p->slave, "out\n");
	settle(p->master, 9);
}

static void drain_echoing(struct pty *p)
{
	want("echo", p->master, "echoout\r\n", 9);
	want_empty("echo", p->master);
	puts_to(p->master, "\177!\r");
	want_text("echoed line", p->slave, "ech!\n");
	want("echo of editing", p->master, "\b \b!\r\n", 6);
}

static void set_packet(struct pty *p)
{
	int on = 1;
	check(ioctl(p->master, TIOCPKT, &on) == 0);
	puts_to(p->slave, "packet");
}

static void drain_packet(struct pty *p)
{
	char got[64];
	if (read(p->master, got, sizeof got) != 7 || memcmp(got, "\0packet", 7) != 0)
		bad("packet: '%s'", got + 1);
	if (ioctl(p->slave, TCFLSH, TCOFLUSH) != 0 || read(p->master, got, sizeof got) != 1 || got[0] != TIOCPKT_FLUSHWRITE)
		bad("packet: status %x", got[0]);
}

static void set_locked(struct pty *p)
{
	int on = 1;
	check(ioctl(p->slave, TIOCEXCL) == 0 && ioctl(p->master, TIOCSPTLCK, &on) == 0);
}

static void drain_locked(struct pty *p)
{
	if (open(p->path, O_RDWR | O_NOCTTY) >= 0 || errno != EIO)
		bad("locked: %s", strerror(errno));
}

static void set_closed(struct pty *p)
{
	puts_to(p->slave, "last words");
	close(p->slave);
	p->slave = -1;
}

static void drain_closed(struct pty *p)
{
	char c;
	want("output of a closed slave", p->master, "last words", 10);
	if (read(p->master, &c, 1) != -1 || errno != EIO)
		bad("closed slave: %s", strerror(errno));
	int slave = open(p->path, O_RDWR | O_NOCTTY);
	puts_to(slave, "again");
	want("output of a slave that was opened again", p->master, "again", 5);
}

static void drain_hung(struct pty *p)
{
	char c;
	if (read(p->slave, &c, 1) != 0 || write(p->slave, "x", 1) != -1 || errno != EIO)
		bad("hung up: %s", strerror(errno));
}

/* The session: its leader has the terminal on 0 and, twice, as /dev/tty. */
static struct pty session;
static int report[2], orders[2];

static void leader_main(void)
{
	int tty, twin;
	pid_t job, background, pgid;
	char text[128];
	close(session.master);
	check(setsid() >= 0 && ioctl(session.slave, TIOCSCTTY, 0) == 0);
	signal(SIGTTOU, SIG_IGN);
	signal(SIGINT, SIG_DFL);
	tty = open("/dev/tty", O_RDWR);
	check(tty >= 0);
	twin = dup(tty);
	job = fork();
	if (job == 0) {
		check(setpgid(0, 0) == 0);
		for (;;)
			pause();
	}
	background = fork();
	if (background == 0) {
		check(setpgid(0, 0) == 0);
		if (!plain)
			raise(SIGTSTP);
		for (;;)
			pause();
	}
	setpgid(job, job);
	setpgid(background, background);
	int status;
	check(plain || (waitpid(background, &status, WUNTRACED) == background && WIFSTOPPED(status)));
	check(ioctl(tty, TIOCSPGRP, &job) == 0);
	put(report[1], "r", 1);
	char c;
	while (read(orders[0], &c, 1) < 0 && errno == EINTR)
		;
	struct stat st, own;
	check(fstat(tty, &st) == 0 && stat(session.path, &own) == 0);
	if (st.st_rdev != makedev(5, 0))
		bad("/dev/tty: device %lx", (long)st.st_rdev);
	if (ioctl(twin, TIOCGPGRP, &pgid) != 0 || pgid != job)
		bad("foreground group %d, want %d: %s", pgid, job, strerror(errno));
	if (ioctl(session.slave, TIOCGSID, &pgid) != 0 || pgid != getpid())
		bad("session %d, want %d: %s", pgid, getpid(), strerror(errno));
	snprintf(text, sizeof text, "/proc/%d/stat", background);
	char state = '?';
	FILE *f = fopen(text, "r");
	if (!f || fscanf(f, "%*d %*s %c", &state) != 1 || (state == 'T') == plain)
		bad("the job in the background is in state %c", state);
	int fresh = open("/dev/tty", O_WRONLY);
	puts_to(fresh, "by name\n");
	puts_to(twin, "by descriptor\n");
	/* Ctrl-C ends the job in the foreground. */
	put(report[1], "i", 1);
	if (waitpid(job, &status, 0) != job || !WIFSIGNALED(status) || WTERMSIG(status) != SIGINT)
		bad("foreground job: status %x", status);
	kill(background, SIGKILL);
	waitpid(background, &status, 0);
	put(report[1], "d", 1);
	pause();
	_exit(0);
}

static void drain_session(void)
{
	put(orders[1], "x", 1);
	want("report of the session", report[0], "i", 1);
	want("output of the session", session.master, "by name\r\nby descriptor\r\n", 24);
	puts_to(session.master, "\003");
	want("report of the session", report[0], "d", 1);
}

int main(int argc, char **argv)
{
	static void (*set[])(struct pty *) = {set_raw, set_canon, set_echoing, set_packet, set_locked, set_closed};
	subject_open();
	plain = argc > 1 && strcmp(argv[1], "plain") == 0;
	fill(bulk, sizeof bulk, 5);
	for (int i = 0; i < COUNT; i++)
		open_pty(&ptys[i]);
	for (size_t i = 0; i < sizeof set / sizeof *set; i++)
		set[i](&ptys[i]);
	close(ptys[HUNG].master);
	open_pty(&session);
	check(pipe(report) == 0 && pipe(orders) == 0);
	pid_t leader = fork();
	check(leader >= 0);
	if (leader == 0)
		leader_main();
	want("report of the session", report[0], "r", 1);
	close(ptys[IDLE].slave);
	close(ptys[IDLE].master);
	if (argc > 1 && strcmp(argv[1], "damaged") == 0)
		puts_to(ptys[RAW].master, "!");
	for (int i = 0; i < HUNG; i++)
		describe(&ptys[i], ptys[i].before, sizeof ptys[i].before);
	say("slave %s", ptys[RAW].path);
	say("ready");
	for (long n = 0;; n++) {
		for (int i = 0; i < HUNG; i++) {
			char now[512];
			describe(&ptys[i], now, sizeof now);
			if (strcmp(now, ptys[i].before) != 0)
				bad("%s is '%s', was '%s'", ptys[i].path, now, ptys[i].before);
		}
		say("tick %ld", n);
		pause_ms(10);
		if (asked("drain"))
			break;
	}
	drain_raw(&ptys[RAW]);
	drain_canon(&ptys[CANON]);
	drain_echoing(&ptys[ECHOING]);
	drain_packet(&ptys[PACKET]);
	drain_locked(&ptys[LOCKED]);
	drain_closed(&ptys[CLOSED]);
	drain_hung(&ptys[HUNG]);
	drain_session();
	say("drained");
	for (;;)
		pause_ms(1000);
}
