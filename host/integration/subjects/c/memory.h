/* What memory.c verifies; memory_kinds.c makes it. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stddef.h>
#include <stdint.h>

enum { MAX_KINDS = 40 };

struct kind {
	const char *name;
	void *address;
	size_t length;
	uint64_t seed;
	int fixed;                  /* its mapping may not change at all */
	void (*verify)(struct kind *); /* NULL: filled from seed */
};

struct kind *add(const char *name, void *address, size_t length, uint64_t seed);
struct kind *find(const char *name);

void add_anonymous(void);
void add_files(void);
void add_stacks(void);
void add_gap(void);
void start_child(void);
void exercise_child(void);
void exercise_growth(void);

#endif
