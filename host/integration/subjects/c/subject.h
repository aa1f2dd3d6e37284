/*
 * Shared by the subjects: programs that verify themselves while they are
 * checkpointed and restored. A subject works in its own directory:
 *
 *   log      appended to: "ready", "tick N" after every round that was found
 *            to be right, "bad: ..." for everything that is not
 *   NAME     a file that the test creates to ask for something (asked)
 *   break    asks the subject to damage its own state, which it must find
 */
#ifndef SUBJECT_H
#define SUBJECT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Weak: a subject of several files has one. */
__attribute__((weak)) int subject_log = -1;

__attribute__((format(printf, 1, 2), unused)) static void say(const char *format, ...)
{
	char line[1024];
	va_list ap;
	va_start(ap, format);
	int n = vsnprintf(line, sizeof line - 1, format, ap);
	va_end(ap);
	if (n > (int)sizeof line - 2)
		n = sizeof line - 2;
	line[n++] = '\n';
	if (write(subject_log, line, n) != n)
		_exit(99);
}

#define bad(...) say("bad: " __VA_ARGS__)

/* Ends the subject: it could not even be set up. */
#define die(...) (say("bad: setup: " __VA_ARGS__), exit(98))

/* check(x, ...) ends the subject unless x holds; for setting up only. */
#define check(x) ((x) ? (void)0 : die("%s:%d: %s: %s", __FILE__, __LINE__, #x, strerror(errno)))

__attribute__((unused)) static void subject_open(void)
{
	subject_log = open("log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (subject_log < 0)
		_exit(97);
}

/* True once the test created the file. */
__attribute__((unused)) static int asked(const char *name)
{
	return faccessat(AT_FDCWD, name, F_OK, 0) == 0;
}

__attribute__((unused)) static pid_t tid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

/* Sleeps; with no signal around it must never be cut short. */
__attribute__((unused)) static void pause_ms(int ms)
{
	struct timespec ts = {ms / 1000, (ms % 1000) * 1000000L};
	if (nanosleep(&ts, NULL) != 0)
		bad("nanosleep of %d ms: %s", ms, strerror(errno));
}

__attribute__((unused)) static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + ts.tv_nsec;
}

/* A cheap generator; every state is different for 2^64 steps. */
__attribute__((unused)) static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* Fills memory with words that depend on seed and position. */
__attribute__((unused, noipa)) static void fill(void *p, size_t bytes, uint64_t seed)
{
	uint64_t *w = p;
	for (size_t i = 0; i < bytes / 8; i++)
		w[i] = mix(seed + i);
}

/* Returns the offset of the first wrong word, or -1. */
__attribute__((unused, noipa)) static long verify(const void *p, size_t bytes, uint64_t seed)
{
	const uint64_t *w = p;
	for (size_t i = 0; i < bytes / 8; i++)
		if (w[i] != mix(seed + i))
			return (long)(i * 8);
	return -1;
}

#endif
