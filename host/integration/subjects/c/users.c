/*
 * Processes in user namespaces: one that a user without rights has made, with
 * threads of other users, a priority that it could not raise itself, and UTS and
 * IPC namespaces that belong to it; another user in the same one; one nested in
 * it; one that was joined from outside by root, who has no number inside, in a
 * directory that is deleted; and one without any users at all. Each looks at
 * itself from inside; the root, outside of all, at how they belong together.
 *
 *   users [threads]   with "threads" more of them
 */
#include "subject.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/utsname.h>

enum { MAKER, MAKER_THREAD, OTHER_THREAD, OTHER_USER, NESTED, JOINED, NOBODY, MEMBERS };

static const char *names[] = {"maker", "thread", "thread of another user", "other user", "nested", "joined", "nobody"};

static struct entry {
	volatile pid_t pid;
	volatile int step; /* 1: has its namespace, 2: has its maps, 3: lives */
	volatile unsigned long beats;
	volatile int inspected;
} *table;

static volatile int *leave, *broken, *inspecting, *held; /* held: a descriptor of the joined process */
static int threads = 3;

static void await(int who, int step)
{
	for (int n = 0; table[who].step < step; n++) {
		check(n < 20000);
		pause_ms(1);
	}
}

static void append(char *text, size_t size, const char *format, ...)
{
	va_list ap;
	size_t n = strlen(text);
	va_start(ap, format);
	vsnprintf(text + n, size - n, format, ap);
	va_end(ap);
}

static void append_file(char *text, size_t size, const char *path)
{
	char content[512] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, content, sizeof content - 1) < 0)
		append(text, size, "%s: %s\n", path, strerror(errno));
	else
		append(text, size, "%s: %s\n", path, content);
	close(fd);
}

/* What a thread sees of itself. */
static void describe(char *text, size_t size)
{
	uid_t u[3];
	gid_t g[3], groups[32];
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[2] = {{0}};
	struct utsname name;
	text[0] = 0;
	getresuid(&u[0], &u[1], &u[2]);
	getresgid(&g[0], &g[1], &g[2]);
	append(text, size, "pid %d tid %d parent %d\nuids %d %d %d gids %d %d %d groups", getpid(), tid(), getppid(),
		u[0], u[1], u[2], g[0], g[1], g[2]);
	for (int i = 0, n = getgroups(32, groups); i < n; i++)
		append(text, size, " %d", groups[i]);
	syscall(SYS_capget, &header, caps);
	append(text, size, "\ncaps %x %x %x %x %x %x\n", caps[0].effective, caps[0].permitted, caps[0].inheritable,
		caps[1].effective, caps[1].permitted, caps[1].inheritable);
	append(text, size, "securebits %x nnp %d nice %d dumpable %d\n", prctl(PR_GET_SECUREBITS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
		getpriority(PRIO_PROCESS, 0), prctl(PR_GET_DUMPABLE));
	for (int c = 0; c <= 40; c++)
		append(text, size, "%d", prctl(PR_CAPBSET_READ, c));
	uname(&name);
	append(text, size, "\nhost %s\n", name.nodename);
}

/* What its user namespace is. Only before a checkpoint can come, and when none
 * comes any more: an open file of a thread in /proc is not carried. */
static void describe_namespace(char *text, size_t size)
{
	text[0] = 0;
	append_file(text, size, "/proc/thread-self/uid_map");
	append_file(text, size, "/proc/thread-self/gid_map");
	append_file(text, size, "/proc/thread-self/setgroups");
}

/* Looks at the namespace again when the root asks for it. */
static void inspect(int who, const char *before)
{
	static __thread char now[2048];
	if (!*inspecting || table[who].inspected)
		return;
	describe_namespace(now, sizeof now);
	if (strcmp(before, now))
		bad("the namespace of %s was\n%s is\n%s", names[who], before, now);
	table[who].inspected = 1;
}

static void live(int who)
{
	static __thread char before[4096], now[4096], namespace[2048];
	describe(before, sizeof before);
	describe_namespace(namespace, sizeof namespace);
	for (table[who].step = 3; !*leave;) {
		describe(now, sizeof now);
		if (strcmp(before, now))
			bad("%s was\n%s is\n%s", names[who], before, now);
		inspect(who, namespace);
		table[who].beats++;
		pause_ms(3);
		if (*broken && who == OTHER_THREAD)
			syscall(SYS_setresgid, 8, 8, 8);
	}
}

static void *thread(void *arg)
{
	int who = (int)(intptr_t)arg;
	if (who == OTHER_THREAD) {
		/* A user of its own, for this thread only, and no rights. */
		const gid_t groups[] = {7, 9};
		check(syscall(SYS_setgroups, 2, groups) == 0 && syscall(SYS_setresgid, 6, 7, 8) == 0 && syscall(SYS_setresuid, 3, 4, 5) == 0);
	}
	if (who < MEMBERS)
		live(who);
	while (!*leave)
		pause_ms(20);
	return NULL;
}

static void start_thread(int who)
{
	pthread_t t;
	check(pthread_create(&t, NULL, thread, (void *)(intptr_t)who) == 0);
}

static void put(pid_t pid, const char *name, const char *text)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die("%s: %s", path, strerror(errno));
	close(fd);
}

static int namespace(pid_t pid, const char *name)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void born(int who)
{
	table[who].pid = getpid();
}

static void make(int who)
{
	check(unshare(CLONE_NEWUSER) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0);
	table[who].step = 1;
	await(who, 2);
}

/* A user without rights makes a namespace, in which it is root. */
static void maker(void)
{
	const gid_t groups[] = {1000, 100003};
	born(MAKER);
	check(setpriority(PRIO_PROCESS, 0, -5) == 0);
	check(setgroups(2, groups) == 0 && setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
	make(MAKER);
	check(unshare(CLONE_NEWUTS | CLONE_NEWIPC) == 0 && sethostname("inside", 6) == 0);
	int sem = semget(4711, 1, IPC_CREAT | 0600);
	check(sem >= 0 && semctl(sem, 0, SETVAL, 42) == 0);

	pid_t pid = fork();
	if (pid == 0) {
		born(OTHER_USER);
		const gid_t own[] = {11, 12};
		check(setgroups(2, own) == 0 && setresgid(20, 20, 20) == 0 && setresuid(21, 22, 23) == 0);
		live(OTHER_USER);
		_exit(0);
	}
	pid = fork();
	if (pid == 0) {
		born(NESTED);
		make(NESTED);
		check(setresgid(2, 2, 2) == 0 && setresuid(1, 1, 1) == 0);
		live(NESTED);
		_exit(0);
	}
	await(NESTED, 1);
	put(pid, "setgroups", "deny");
	put(pid, "gid_map", "2 0 1\n100 500 10");
	put(pid, "uid_map", "1 0 1\n200 600 10");
	table[NESTED].step = 2;

	table[MAKER_THREAD].pid = table[OTHER_THREAD].pid = getpid();
	start_thread(OTHER_THREAD);
	await(OTHER_THREAD, 3); /* makes the process one that cannot be dumped */
	start_thread(MAKER_THREAD);
	for (int i = 0; i < threads; i++)
		start_thread(MEMBERS);
	while (table[MAKER].step < 3 || !*leave) {
		static char before[4096], now[4096], namespace[2048];
		if (table[MAKER].step < 3) {
			describe(before, sizeof before);
			describe_namespace(namespace, sizeof namespace);
		}
		inspect(MAKER, namespace);
		table[MAKER].step = 3;
		describe(now, sizeof now);
		if (strcmp(before, now))
			bad("maker was\n%s is\n%s", before, now);
		/* It has rights over what belongs to its namespace, and no others. */
		if (sethostname("inside", 6) != 0)
			bad("sethostname: %s", strerror(errno));
		if (semget(4711, 1, 0) != sem || semctl(sem, 0, GETVAL) != 42)
			bad("semaphore: %s", strerror(errno));
		if (setpriority(PRIO_PROCESS, 0, -10) == 0)
			bad("raised its priority");
		table[MAKER].beats++;
		pause_ms(3);
	}
	while (wait(NULL) > 0)
		continue;
}

static void start_maker(void)
{
	if (fork() == 0) {
		maker();
		_exit(0);
	}
	await(MAKER, 1);
	put(table[MAKER].pid, "gid_map", "0 1000 1\n1 100000 999");
	put(table[MAKER].pid, "uid_map", "0 1000 1\n1 100000 999");
	table[MAKER].step = 2;
	await(MAKER, 3);
	await(NESTED, 3);
	await(OTHER_USER, 3);
	await(OTHER_THREAD, 3);
	await(MAKER_THREAD, 3);
}

static void start_joined(void)
{
	if (fork() == 0) {
		born(JOINED);
		check(mkdir("gone", 0700) == 0 && chdir("gone") == 0 && rmdir("../gone") == 0);
		*held = namespace(table[MAKER].pid, "user");
		check(*held >= 0 && setns(*held, CLONE_NEWUSER) == 0);
		live(JOINED);
		struct stat st;
		if (stat(".", &st) != 0 || st.st_nlink != 0)
			bad("the directory is not deleted any more");
		_exit(0);
	}
	await(JOINED, 3);
}

static void start_nobody(void)
{
	if (fork() == 0) {
		const gid_t groups[] = {33};
		born(NOBODY);
		check(setgroups(1, groups) == 0 && setresgid(1001, 1001, 1001) == 0 && setresuid(1001, 1002, 1003) == 0);
		check(unshare(CLONE_NEWUSER) == 0);
		for (int c = 0; c <= 40; c++)
			check(c == CAP_SYS_CHROOT || c > 31 || prctl(PR_CAPBSET_DROP, c) == 0);
		live(NOBODY);
		_exit(0);
	}
	await(NOBODY, 3);
}

static ino_t number(int fd)
{
	struct stat st;
	ino_t n = fd >= 0 && fstat(fd, &st) == 0 ? st.st_ino : 0;
	close(fd);
	return n;
}

static ino_t inode(int who, const char *name)
{
	return number(namespace(table[who].pid, name));
}

static uid_t owner(int who)
{
	uid_t uid = -1;
	int fd = namespace(table[who].pid, "user");
	ioctl(fd, NS_GET_OWNER_UID, &uid);
	close(fd);
	return uid;
}

static ino_t related(int who, const char *name, unsigned long request)
{
	int fd = namespace(table[who].pid, name), to = ioctl(fd, request);
	close(fd);
	return number(to);
}

/* How they belong together, from outside; NULL if that is right. */
static const char *wrong(void)
{
	ino_t made = inode(MAKER, "user"), own = number(namespace(getpid(), "user"));
	char path[64];
	struct stat st;
	if (!made || made == own || inode(OTHER_USER, "user") != made || inode(JOINED, "user") != made)
		return "the members of one user namespace are not together";
	if (inode(NESTED, "user") == made || related(NESTED, "user", NS_GET_PARENT) != made)
		return "the nested user namespace is not nested";
	if (related(NOBODY, "user", NS_GET_PARENT) != own || related(MAKER, "user", NS_GET_PARENT) != own)
		return "a user namespace is not inside the root's";
	if (owner(MAKER) != 1000 || owner(NESTED) != 1000 || owner(NOBODY) != 1002)
		return "a user namespace has another owner";
	if (related(MAKER, "uts", NS_GET_USERNS) != made || related(MAKER, "ipc", NS_GET_USERNS) != made)
		return "namespaces do not belong to the user namespace";
	if (inode(OTHER_USER, "uts") != inode(MAKER, "uts") || inode(OTHER_USER, "ipc") != inode(MAKER, "ipc"))
		return "namespaces are not shared";
	if (inode(JOINED, "uts") != number(namespace(getpid(), "uts")))
		return "the joined process is in another UTS namespace than the root";
	snprintf(path, sizeof path, "/proc/%d/fd/%d", table[JOINED].pid, *held);
	if (stat(path, &st) != 0 || st.st_ino != made)
		return "the open user namespace is another one";
	return NULL;
}

/* In the middle of a look everything may become another one, by a restore: but
 * not twice in a row. */
static void look(void)
{
	const char *text = wrong();
	if (text)
		text = wrong();
	if (text)
		bad("%s", text);
}

int main(int argc, char **argv)
{
	unsigned long last[MEMBERS] = {0};
	subject_open();
	if (argc > 1)
		threads = atoi(argv[1]);
	table = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(table != MAP_FAILED);
	leave = (volatile int *)(table + MEMBERS), broken = leave + 1, held = leave + 2, inspecting = leave + 3;
	start_maker();
	start_joined();
	start_nobody();
	say("ready");
	for (long n = 0;; n++) {
		for (int i = 0; i < MEMBERS; i++) {
			for (int w = 0; w < 2000 && table[i].beats == last[i]; w++)
				pause_ms(1);
			if (table[i].beats == last[i])
				bad("%s does not move", names[i]);
			last[i] = table[i].beats;
		}
		look();
		say("tick %ld", n);
		if (asked("break"))
			*broken = 1;
		if (asked("finish")) {
			*inspecting = 1;
			for (int i = 0; i < MEMBERS; i++)
				for (int w = 0; w < 5000 && !table[i].inspected; w++)
					pause_ms(1);
			for (int i = 0; i < MEMBERS; i++)
				if (!table[i].inspected)
					bad("%s did not look", names[i]);
			*leave = 1;
			while (wait(NULL) > 0)
				continue;
			say("finished");
			return 0;
		}
		pause_ms(5);
	}
}
