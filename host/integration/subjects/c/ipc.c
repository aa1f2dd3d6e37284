/*
 * Has one of everything that an IPC namespace holds, in two processes, and
 * verifies it all the time. With "queue NAME" it has only a POSIX queue, of the
 * namespace that it was started in. With another argument it has what cannot be
 * carried:
 *
 *   undo      a semaphore adjustment of SEM_UNDO, of the machine's IPC namespace
 *   alone     a thread with adjustments of its own
 *   long      a message longer than new ones may be
 *   message   a message in a POSIX queue
 *   notify    a notification of a POSIX queue
 *   machine   an attached segment of the namespace that it was started in
 *   moved     an attached segment of a namespace that it has left
 */
#include "subject.h"
#include <mqueue.h>
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define KEY 0x46697231
#define PAGES 700L
#define PAGE 4096L
#define MODE 0640
#define USER 65534

/* Bytes of the segment, not of whole pages. */
static const size_t size = PAGES * PAGE - 100;

static int shm_id, loose_id, gone_id, msg_id, full_id, sem_id;
static char *whole, *reading, *part, *gone;
static mqd_t queue;
static pid_t child, self;
static ino_t space;

/* The ids go up, so that a fresh namespace would give others. */
static int wasted(int (*get)(void), int (*drop)(int))
{
	for (int i = 0; i < 5; i++)
		check(drop(get()) == 0);
	return get();
}

static int get_shm(void) { return shmget(KEY, size, IPC_CREAT | IPC_EXCL | MODE); }
static int drop_shm(int id) { return shmctl(id, IPC_RMID, NULL); }
static int get_msg(void) { return msgget(KEY, IPC_CREAT | IPC_EXCL | MODE); }
static int drop_msg(int id) { return msgctl(id, IPC_RMID, NULL); }
static int get_sem(void) { return semget(KEY, 40, IPC_CREAT | IPC_EXCL | MODE); }
static int drop_sem(int id) { return semctl(id, 0, IPC_RMID); }

struct text {
	long type;
	char bytes[9000];
};

/* Message i has type i + 1 and a length of its own; the first has none. */
static size_t length(int i) { return i == 0 ? 0 : i == 6 ? 8192 : 100 * i; }

static void send_all(int id)
{
	for (int i = 0; i < 7; i++) {
		struct text t = {.type = i + 1};
		memset(t.bytes, 'a' + i, sizeof t.bytes);
		check(msgsnd(id, &t, length(i), IPC_NOWAIT) == 0);
	}
}

static void set_limit(const char *name, const char *value)
{
	int fd = open(name, O_WRONLY);
	check(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value));
	close(fd);
}

static void same_limit(const char *name, const char *value)
{
	char got[100];
	int fd = open(name, O_RDONLY);
	ssize_t n = read(fd, got, sizeof got - 1);
	close(fd);
	got[n > 0 ? n - 1 : 0] = 0;
	if (strcmp(got, value))
		bad("%s is %s, was %s", name, got, value);
}

static ino_t inode(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 ? st.st_ino : 0;
}

/* The pages that have content: all but a hole in the middle. */
static int filled(long page) { return page < 200 || page >= 500; }

static void set_shm(void)
{
	shm_id = wasted(get_shm, drop_shm);
	whole = shmat(shm_id, NULL, 0);
	check(whole != (void *)-1);
	for (long p = 0; p < PAGES - 1; p++)
		if (filled(p))
			fill(whole + p * PAGE, PAGE, p);
	struct shmid_ds ds;
	check(shmctl(shm_id, IPC_STAT, &ds) == 0);
	ds.shm_perm.uid = USER, ds.shm_perm.gid = USER, ds.shm_perm.mode = 0604;
	check(shmctl(shm_id, IPC_SET, &ds) == 0);
	check(shmctl(shm_id, SHM_LOCK, NULL) == 0);

	reading = shmat(shm_id, NULL, SHM_RDONLY);
	check(reading != (void *)-1);

	/* Only a part of it, from the middle on, and moved. */
	char *again = shmat(shm_id, NULL, 0);
	check(again != (void *)-1);
	part = mmap(NULL, 20 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(mremap(again + 100 * PAGE, 20 * PAGE, 20 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, part) == part);
	check(shmdt(again) == 0);
	check(mprotect(part, 10 * PAGE, PROT_READ) == 0);

	/* Nobody has it attached. */
	check(seteuid(USER) == 0);
	loose_id = shmget(IPC_PRIVATE, 3 * PAGE, IPC_CREAT | 0600);
	check(seteuid(0) == 0);
	char *loose = shmat(loose_id, NULL, 0);
	check(loose != (void *)-1);
	fill(loose + PAGE, PAGE, 77);
	check(shmdt(loose) == 0);

	/* Removed, but attached. */
	gone_id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
	gone = shmat(gone_id, NULL, 0);
	fill(gone, PAGE, 78);
	check(shmctl(gone_id, IPC_RMID, NULL) == 0);
}

static void set_msg(void)
{
	msg_id = wasted(get_msg, drop_msg);
	send_all(msg_id);
	/* Its limit is lower than what it holds, and so is that of the namespace. */
	full_id = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
	send_all(full_id);
	struct msqid_ds ds;
	check(msgctl(full_id, IPC_STAT, &ds) == 0);
	ds.msg_qbytes = 1000;
	check(msgctl(full_id, IPC_SET, &ds) == 0);
	set_limit("/proc/sys/kernel/msgmax", "8195");
	set_limit("/proc/sys/kernel/msgmnb", "5000");
	set_limit("/proc/sys/kernel/sem", "300	1000	50	60");
	set_limit("/proc/sys/kernel/shmmax", "8192");
	set_limit("/proc/sys/fs/mqueue/msg_max", "7");
}

static void set_sem(void)
{
	sem_id = wasted(get_sem, drop_sem);
	for (int i = 1; i < 40; i++)
		check(semctl(sem_id, i, SETVAL, i * 800) == 0);
	struct sembuf op = {.sem_num = 5, .sem_op = 1};
	check(semop(sem_id, &op, 1) == 0);
}

static void set_queue(void)
{
	struct mq_attr attr = {.mq_maxmsg = 5, .mq_msgsize = 321};
	queue = mq_open("/firn-subject", O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK, 0600, &attr);
	check(queue >= 0 && fchmod(queue, 0624) == 0);
	mqd_t other = mq_open("/closed one", O_CREAT | O_EXCL | O_RDWR, 0600, &attr);
	check(other >= 0 && close(other) == 0);
}

static void same_shm(void)
{
	for (long p = 0; p < PAGES - 1; p++) {
		long at = filled(p) ? verify(whole + p * PAGE, PAGE, p) : -1;
		if (at >= 0)
			bad("page %ld of the segment at %ld", p, at);
		if (!filled(p) && *(uint64_t *)(whole + p * PAGE) != 0)
			bad("page %ld of the segment is not zero", p);
	}
	for (long p = 100; p < 120; p++)
		if (verify(part + (p - 100) * PAGE, PAGE, p) >= 0 || verify(reading + p * PAGE, PAGE, p) >= 0)
			bad("page %ld in the other attachments", p);
	if (verify(gone, PAGE, 78) >= 0)
		bad("the removed segment");
	struct shmid_ds ds;
	if (shmctl(shm_id, IPC_STAT, &ds) != 0 || shmget(KEY, 0, 0) != shm_id)
		bad("segment %d: %s", shm_id, strerror(errno));
	else if (ds.shm_segsz != size || (ds.shm_perm.mode & 07777) != (0604 | SHM_LOCKED) || ds.shm_perm.uid != USER ||
		 ds.shm_perm.gid != USER || ds.shm_perm.cuid != 0 || ds.shm_nattch != 8)
		bad("segment %d: size %zu mode %o uid %d cuid %d attached %ld", shm_id, ds.shm_segsz, ds.shm_perm.mode,
		    ds.shm_perm.uid, ds.shm_perm.cuid, (long)ds.shm_nattch);
	if (shmctl(loose_id, IPC_STAT, &ds) != 0 || ds.shm_perm.cuid != USER || ds.shm_perm.uid != USER || ds.shm_nattch != 0)
		bad("segment %d that nobody has: %s, user %d", loose_id, strerror(errno), ds.shm_perm.cuid);
	if (shmctl(gone_id, IPC_STAT, &ds) != 0 || !(ds.shm_perm.mode & SHM_DEST) || ds.shm_nattch != 2)
		bad("removed segment %d: %s, mode %o, attached %ld", gone_id, strerror(errno), ds.shm_perm.mode, (long)ds.shm_nattch);
}

static void same_loose(void)
{
	char *loose = shmat(loose_id, NULL, SHM_RDONLY);
	if (loose == (void *)-1 || verify(loose + PAGE, PAGE, 77) >= 0 || *(uint64_t *)loose != 0)
		bad("content of the segment that nobody has: %s", strerror(errno));
	shmdt(loose);
}

static void same_msg(int id, size_t limit)
{
	struct msqid_ds ds;
	if (msgctl(id, IPC_STAT, &ds) != 0)
		bad("queue %d: %s", id, strerror(errno));
	else if (ds.msg_qnum != 7 || ds.msg_qbytes != limit)
		bad("queue %d: %ld messages, %ld bytes at most", id, (long)ds.msg_qnum, (long)ds.msg_qbytes);
}

static void drain(int id)
{
	for (int i = 0; i < 7; i++) {
		struct text t;
		ssize_t n = msgrcv(id, &t, sizeof t.bytes, 0, IPC_NOWAIT);
		if (n != (ssize_t)length(i) || t.type != i + 1)
			bad("message %d of queue %d has type %ld and %zd bytes", i, id, t.type, n);
		for (ssize_t k = 0; k < n; k++)
			if (t.bytes[k] != 'a' + i) {
				bad("message %d of queue %d at %zd", i, id, k);
				break;
			}
	}
}

static void same_sem(void)
{
	for (int i = 0; i < 40; i++) {
		int want = i * 800 + (i == 5), pid = i == 0 ? 0 : i == 6 ? child : self;
		if (semctl(sem_id, i, GETVAL) != want || semctl(sem_id, i, GETPID) != pid)
			bad("semaphore %d is %d of task %d, was %d of %d", i, semctl(sem_id, i, GETVAL), semctl(sem_id, i, GETPID), want, pid);
	}
	struct semid_ds ds;
	if (semctl(sem_id, 0, IPC_STAT, &ds) != 0 || ds.sem_otime == 0 || semget(KEY, 40, 0) != sem_id)
		bad("semaphores %d: %s", sem_id, strerror(errno));
}

static void same_queue(void)
{
	struct mq_attr attr;
	struct stat st;
	if (mq_getattr(queue, &attr) != 0 || fstat(queue, &st) != 0)
		bad("POSIX queue: %s", strerror(errno));
	else if (attr.mq_maxmsg != 5 || attr.mq_msgsize != 321 || !(attr.mq_flags & O_NONBLOCK) || (st.st_mode & 0777) != 0624)
		bad("POSIX queue of %ld messages of %ld bytes, mode %o", attr.mq_maxmsg, attr.mq_msgsize, st.st_mode);
	char buf[321];
	/* One goes through and leaves the queue empty. */
	if (mq_send(queue, "hello", 5, 3) != 0 || mq_receive(queue, buf, sizeof buf, NULL) != 5)
		bad("POSIX queue: %s", strerror(errno));
	mqd_t other = mq_open("/closed one", O_RDWR);
	if (other < 0)
		bad("closed POSIX queue: %s", strerror(errno));
	else
		close(other);
}

static void same_limits(void)
{
	same_limit("/proc/sys/kernel/msgmax", "8195");
	same_limit("/proc/sys/kernel/msgmnb", "5000");
	same_limit("/proc/sys/kernel/sem", "300\t1000\t50\t60");
	same_limit("/proc/sys/kernel/shmmax", "8192");
	same_limit("/proc/sys/fs/mqueue/msg_max", "7");
}

/* The child answers by the shared memory and waits for a semaphore. */
static void serve(void)
{
	check(semctl(sem_id, 6, SETVAL, 6 * 800) == 0);
	volatile uint64_t *word = (uint64_t *)(whole + (PAGES - 1) * PAGE);
	for (;;) {
		word[0]++;
		if (inode("/proc/self/ns/ipc") != inode("/proc/1/ns/ipc"))
			word[1] = inode("/proc/self/ns/ipc");
		pause_ms(1);
	}
}

static void machine_queue(const char *name)
{
	queue = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, NULL);
	check(queue >= 0);
	say("ready");
	for (int n = 0; !asked("drain"); n++) {
		char text[8192] = "";
		snprintf(text, sizeof text, "%d", n);
		if (mq_send(queue, text, strlen(text) + 1, 3) != 0)
			bad("mq_send: %s", strerror(errno));
		pause_ms(5);
		if (mq_receive(queue, text, sizeof text, NULL) < 0 || atoi(text) != n)
			bad("received %s, sent %d: %s", text, n, strerror(errno));
		say("tick %d", n);
	}
	check(mq_unlink(name) == 0);
	say("drained");
	exit(0);
}

static int machine_sem = -1;

static void *alone(void *arg)
{
	struct sembuf op = {.sem_op = 1, .sem_flg = SEM_UNDO};
	check(unshare(CLONE_SYSVSEM) == 0 && semop(machine_sem, &op, 1) == 0);
	for (;;)
		pause();
	return arg;
}

static void unable(const char *what)
{
	struct sembuf op = {.sem_op = 1, .sem_flg = SEM_UNDO};
	if (!strcmp(what, "undo")) {
		machine_sem = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
		check(machine_sem >= 0 && semop(machine_sem, &op, 1) == 0);
	} else if (!strcmp(what, "alone")) {
		pthread_t thread;
		machine_sem = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
		check(pthread_create(&thread, NULL, alone, NULL) == 0);
		while (semctl(machine_sem, 0, GETVAL) == 0)
			pause_ms(1);
	} else if (!strcmp(what, "long")) {
		send_all(msgget(IPC_PRIVATE, IPC_CREAT | 0600));
		set_limit("/proc/sys/kernel/msgmax", "4000");
	} else if (!strcmp(what, "machine")) {
		int id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
		check(shmat(id, NULL, 0) != (void *)-1 && shmctl(id, IPC_RMID, NULL) == 0);
	} else if (!strcmp(what, "moved")) {
		int id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
		check(shmat(id, NULL, 0) != (void *)-1 && unshare(CLONE_NEWIPC) == 0);
	} else {
		mqd_t q = mq_open("/firn-subject", O_CREAT | O_RDWR, 0600, NULL);
		struct sigevent ev = {.sigev_notify = SIGEV_NONE};
		check(q >= 0);
		if (!strcmp(what, "message"))
			check(mq_send(q, "x", 1, 0) == 0);
		else
			check(mq_notify(q, &ev) == 0);
	}
	say("ready");
	for (int n = 0; !asked("drain"); n++) {
		say("tick %d", n);
		pause_ms(10);
	}
	drop_sem(machine_sem);
	exit(0);
}

int main(int argc, char **argv)
{
	subject_open();
	self = getpid();
	if (argc == 3)
		machine_queue(argv[2]);
	if (argc == 1 || (strcmp(argv[1], "machine") && strcmp(argv[1], "undo")))
		check(unshare(CLONE_NEWIPC) == 0);
	if (argc > 1)
		unable(argv[1]);
	set_shm();
	set_msg();
	set_sem();
	set_queue();
	space = inode("/proc/self/ns/ipc");
	child = fork();
	check(child >= 0);
	if (child == 0)
		serve();
	volatile uint64_t *word = (uint64_t *)(whole + (PAGES - 1) * PAGE);
	while (word[0] == 0)
		pause_ms(1);
	say("ready");
	for (int n = 0;; n++) {
		uint64_t before = word[0];
		for (int i = 0; i < 5000 && word[0] == before; i++)
			pause_ms(1);
		if (word[0] == before)
			bad("the child does not share the segment");
		if (word[1] != inode("/proc/self/ns/ipc"))
			pause_ms(20); /* it may not have looked yet */
		if (word[1] != inode("/proc/self/ns/ipc"))
			bad("the child is in another namespace");
		same_shm();
		same_msg(msg_id, 16384);
		same_msg(full_id, 1000);
		same_sem();
		same_queue();
		same_limits();
		if (asked("break"))
			semctl(sem_id, 7, SETVAL, 1);
		if (asked("drain")) {
			same_loose();
			drain(msg_id);
			drain(full_id);
			say("drained");
			return 0;
		}
		say("tick %d", n);
		pause_ms(2);
	}
}
