/*
 * A program with a hostile address space, by its argument:
 *
 *   vmas    64,000 mappings
 *   sparse  64 TiB of private and 8 TiB of shared memory, touched here and there
 *   low     every page from 64 KiB to 4 MiB
 *   full    all that can be mapped is mapped, but for a hole of 2 GiB: where a
 *           restore begins, something is in the way
 */
#include "subject.h"

#define PAGE 4096ul
#define GIB (1ul << 30)

enum { VMAS = 64000, SPOTS = 64 };

static volatile uint64_t *spots[SPOTS + 1024];
static int count;

static void spot(void *p)
{
	spots[count] = p;
	*spots[count] = mix(count);
	count++;
}

static void *map(void *at, size_t size, int prot, int flags)
{
	void *p = mmap(at, size, prot, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(p != MAP_FAILED && (at == NULL || p == at));
	return p;
}

/* Every second page may be written to; some have something in them. */
static void many(void)
{
	char *p = map(NULL, VMAS * PAGE, PROT_READ, MAP_PRIVATE);
	for (int i = 0; i < VMAS; i += 2)
		check(mprotect(p + i * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
	for (int i = 0; i < SPOTS; i++)
		spot(p + (VMAS / SPOTS * i & ~1) * PAGE);
}

static void sparse(void)
{
	char *private = map(NULL, 65536 * GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *shared = map(NULL, 8192 * GIB, PROT_READ | PROT_WRITE, MAP_SHARED);
	for (int i = 0; i < SPOTS / 2; i++) {
		spot(private + 2047 * GIB * i + i * PAGE);
		spot(shared + 255 * GIB * i + i * PAGE);
	}
}

static void low(void)
{
	for (unsigned long at = 64 << 10; at < 4 << 20; at += PAGE)
		spot(map((void *)at, PAGE, PROT_READ | PROT_WRITE | (at & PAGE ? PROT_EXEC : 0), MAP_PRIVATE | MAP_FIXED_NOREPLACE));
}

static void full(void)
{
	struct {
		unsigned long start, end;
	} gap[256];
	unsigned long at = 64 << 10, start, end, largest = 0;
	int n = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[4096];
	check(maps != NULL);
	while (fgets(line, sizeof line, maps) != NULL && n < 256) {
		check(sscanf(line, "%lx-%lx", &start, &end) == 2);
		if (strstr(line, "[stack]") != NULL)
			start -= 16 << 20; /* it may grow */
		if (start > at && start < 1ul << 47) {
			gap[n].start = at;
			gap[n].end = start;
			if (start - at > largest)
				largest = start - at;
			n++;
		}
		at = end;
	}
	fclose(maps);
	for (int i = 0; i < n; i++) {
		size_t size = gap[i].end - gap[i].start;
		if (size == largest) {
			map((void *)gap[i].start, 128 * GIB, PROT_NONE, MAP_PRIVATE | MAP_FIXED_NOREPLACE);
			gap[i].start += 130 * GIB;
			size -= 130 * GIB;
		}
		map((void *)gap[i].start, size, PROT_NONE, MAP_PRIVATE | MAP_FIXED_NOREPLACE);
		if (count < SPOTS && mprotect((void *)gap[i].start, PAGE, PROT_READ | PROT_WRITE) == 0)
			spot((void *)gap[i].start);
	}
	check(count > 3);
}

static int mappings(void)
{
	static char buf[1 << 16];
	int lines = 0, fd = open("/proc/self/maps", O_RDONLY);
	for (ssize_t n; (n = read(fd, buf, sizeof buf)) > 0;)
		for (ssize_t i = 0; i < n; i++)
			lines += buf[i] == '\n';
	close(fd);
	return lines;
}

int main(int argc, char **argv)
{
	subject_open();
	check(argc == 2);
	switch (argv[1][0]) {
	case 'v':
		many();
		break;
	case 's':
		sparse();
		break;
	case 'l':
		low();
		break;
	default:
		full();
	}
	int lines = mappings();
	say("ready");
	for (uint64_t n = 1;; n++) {
		for (int i = 0; i < count; i++)
			if (*spots[i] != mix(i))
				bad("word %d at %p is %lx", i, (void *)spots[i], *spots[i]);
		if (n % 50 == 0 && mappings() != lines)
			bad("has %d mappings, had %d", mappings(), lines);
		if (asked("break"))
			++*spots[count / 2];
		say("tick %lu", n);
		pause_ms(10);
	}
}
