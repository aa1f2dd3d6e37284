/*
 * A program that is told what happens to files: inotify and fanotify, both in
 * an epoll set. Nothing happens until the file "drain" is there, which is the
 * first event; whatever the checkpoints and restores did is one too many.
 */
#include "subject.h"

#include <limits.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>

static int notify, blocking, fan, set, here, data, removed, ghost, ghost_wd, linked, kept, opened;

static void touch(const char *name)
{
	int fd = open(name, O_WRONLY | O_CREAT, 0644);
	check(fd >= 0);
	close(fd);
}

static void set_notify(void)
{
	touch("data");
	touch("gone");
	check(mkdir("dir", 0755) == 0 && symlink("dir", "link") == 0);
	notify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	blocking = inotify_init1(0);
	check(notify >= 0 && blocking >= 0);
	removed = inotify_add_watch(notify, "dir", IN_CREATE);
	here = inotify_add_watch(notify, ".", IN_CREATE | IN_DELETE | IN_EXCL_UNLINK);
	data = inotify_add_watch(notify, "data", IN_MODIFY | IN_CLOSE_WRITE);
	linked = inotify_add_watch(notify, "link", IN_ATTRIB | IN_DONT_FOLLOW);
	check(removed == 1 && here == 2 && data == 3 && linked == 4);
	check(inotify_rm_watch(notify, removed) == 0);
	ghost = open("gone", O_RDWR);
	ghost_wd = inotify_add_watch(notify, "gone", IN_MODIFY);
	/* A restore opens this file again, and must not be heard. */
	kept = open("dir/kept", O_RDWR | O_CREAT, 0644);
	opened = inotify_add_watch(notify, "dir", IN_OPEN);
	check(kept >= 0 && opened == 6 && ghost >= 0 && ghost_wd == 5 && unlink("gone") == 0);
	/* What the setting up caused. */
	char buf[4096];
	check(read(notify, buf, sizeof buf) > 0);
	check(read(notify, buf, sizeof buf) == -1);
	check(inotify_add_watch(blocking, "dir", IN_CREATE | IN_ONESHOT) == 1);
}

static void set_fan(void)
{
	fan = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY | O_LARGEFILE);
	check(fan >= 0);
	check(fanotify_mark(fan, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, "data") == 0);
	check(fanotify_mark(fan, FAN_MARK_ADD, FAN_CLOSE_WRITE | FAN_EVENT_ON_CHILD, AT_FDCWD, "dir") == 0);
}

static void member(int fd, uint64_t number)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = number};
	check(epoll_ctl(set, EPOLL_CTL_ADD, fd, &ev) == 0);
}

/* Reads one event and compares it. */
static void want(const char *what, int fd, int wd, uint32_t mask, const char *name)
{
	char buf[sizeof(struct inotify_event) + NAME_MAX + 1] __attribute__((aligned(8)));
	struct inotify_event *e = (void *)buf;
	memset(buf, 0, sizeof buf);
	ssize_t n = read(fd, buf, sizeof *e + (name ? 16 : 0));
	if (n <= 0 || e->wd != wd || e->mask != mask || (name && strcmp(e->name, name) != 0))
		bad("%s: %zd bytes (%s), watch %d mask %x name '%s', want %d %x '%s'", what, n, n < 0 ? strerror(errno) : "no error",
		    e->wd, e->mask, e->name, wd, mask, name ? name : "");
}

static void want_nothing(const char *what, int fd)
{
	char buf[4096];
	ssize_t n = read(fd, buf, sizeof buf);
	if (n != -1 || errno != EAGAIN)
		bad("%s: %zd bytes more, the first event has mask %x", what, n, ((struct inotify_event *)buf)->mask);
}

static void want_fan(const char *what, uint64_t mask)
{
	struct fanotify_event_metadata e = {0};
	ssize_t n = read(fan, &e, sizeof e);
	if (n != sizeof e || e.mask != mask || e.pid != getpid())
		bad("fanotify, %s: %zd bytes, mask %lx of process %d", what, n, (unsigned long)e.mask, e.pid);
	if (n == sizeof e && e.fd >= 0)
		close(e.fd);
}

static void drain(void)
{
	struct epoll_event ev;
	if (epoll_wait(set, &ev, 1, 5000) != 1 || ev.data.u64 != 1)
		bad("epoll: the instance is not ready");
	want("create", notify, here, IN_CREATE, "drain");
	want_nothing("after drain", notify);

	int fd = open("data", O_WRONLY);
	check(write(fd, "x", 1) == 1 && close(fd) == 0);
	want("modify", notify, data, IN_MODIFY, NULL);
	want("close", notify, data, IN_CLOSE_WRITE, NULL);
	want_fan("modify", FAN_MODIFY);
	check(write(ghost, "y", 1) == 1);
	want("deleted file", notify, ghost_wd, IN_MODIFY, NULL);
	check(lchown("link", getuid(), getgid()) == 0);
	want("symbolic link", notify, linked, IN_ATTRIB, NULL);
	touch("dir/new");
	want("open", notify, opened, IN_OPEN, "new");
	want("one shot", blocking, 1, IN_CREATE, "new");
	want("one shot", blocking, 1, IN_IGNORED, NULL);
	want_fan("in dir", FAN_CLOSE_WRITE);
	want_nothing("at the end", notify);
	if (inotify_add_watch(notify, ".", IN_DELETE) != here)
		bad("a watch of the same directory is another one");
	if (inotify_rm_watch(notify, removed) != -1 || errno != EINVAL)
		bad("a watch that was removed is there again");
	if (inotify_add_watch(notify, "dir", IN_CREATE | IN_MASK_ADD) != opened || inotify_add_watch(notify, "log", IN_CREATE) != 7)
		bad("the next watch is not number 7");
}

int main(int argc, char **argv)
{
	(void)argv;
	subject_open();
	set_notify();
	set_fan();
	set = epoll_create1(0);
	check(set >= 0);
	member(notify, 1);
	member(blocking, 2);
	member(fan, 3);
	if (argc > 1)
		data++; /* wrong on purpose, for the test of this subject */
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
