/*
 * A program with every kind of memory that a program has, verified by content,
 * by what can be done with it, and by what /proc/self/smaps says of it.
 */
#include "memory.h"
#include "subject.h"

static struct kind kinds[MAX_KINDS];
static int kind_count;

struct kind *add(const char *name, void *address, size_t length, uint64_t seed)
{
	check(address != MAP_FAILED && kind_count < MAX_KINDS);
	struct kind *k = &kinds[kind_count++];
	k->name = name;
	k->address = address;
	k->length = length;
	k->seed = seed;
	return k;
}

struct kind *find(const char *name)
{
	for (int i = 0; i < kind_count; i++)
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	die("no memory named %s", name);
}

static void verify_all(void)
{
	for (int i = 0; i < kind_count; i++) {
		struct kind *k = &kinds[i];
		if (k->verify) {
			k->verify(k);
			continue;
		}
		long at = verify(k->address, k->length, k->seed);
		if (at >= 0)
			bad("%s: differs at byte %ld", k->name, at);
	}
}

/*
 * Writes the mappings of the kinds with their flags, and the whole list of
 * mappings. Sizes of stack and heap may change between two calls.
 */
static void dump(const char *name)
{
	char temporary[64], line[1024];
	snprintf(temporary, sizeof temporary, "%s.new", name);
	FILE *in = fopen("/proc/self/smaps", "re"), *to = fopen(temporary, "we");
	check(in && to);
	int inside = 0;
	while (fgets(line, sizeof line, in)) {
		unsigned long start, end;
		char dash;
		if (sscanf(line, "%lx%c%lx ", &start, &dash, &end) == 3 && dash == '-') {
			inside = !strstr(line, "[stack]") && !strstr(line, "[heap]") && !strstr(line, "rw-p 00000000 00:00 0 \n");
			for (int i = 0; i < kind_count; i++)
				if (start < (uintptr_t)kinds[i].address + kinds[i].length && end > (uintptr_t)kinds[i].address && kinds[i].fixed)
					inside = 1;
			char *anonymous = strstr(line, " /dev/zero (deleted)");
			if (inside && anonymous) {
				/* Shared anonymous memory: the inode number is the kernel's. */
				line[strcspn(line, " ") + 15] = 0;
				fprintf(to, "%s%s", line, anonymous);
			} else if (inside) {
				fputs(line, to);
			}
		} else if (inside && strncmp(line, "VmFlags:", 8) == 0) {
			fputs(line, to);
		}
	}
	fclose(in);
	fclose(to);
	check(rename(temporary, name) == 0);
}

int main(void)
{
	subject_open();
	add_anonymous();
	add_files();
	add_stacks();
	start_child();
	add_gap();
	verify_all();
	dump("before");
	say("ready");
	for (long n = 0;; n++) {
		verify_all();
		exercise_child();
		say("tick %ld", n);
		pause_ms(10);
		if (asked("break")) {
			struct kind *k = find("read-only");
			mprotect(k->address, k->length, PROT_READ | PROT_WRITE);
			((char *)k->address)[12345] ^= 1;
			mprotect(k->address, k->length, PROT_READ);
		}
		if (asked("dump") && !asked("after")) {
			dump("after");
			exercise_growth();
			verify_all();
			say("dumped");
		}
	}
}
