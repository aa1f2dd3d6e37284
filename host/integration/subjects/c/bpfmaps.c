/*
 * Keeps numbers in BPF maps: a hash table that two open files share, whose
 * entries are replaced all the time, and an array. In every round each entry must
 * be what was put there.
 */
#include "subject.h"
#include <linux/bpf.h>

enum { ENTRIES = 300 };

static int bpf(int command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof *attr);
}

static int create(uint32_t type, const char *name)
{
	union bpf_attr attr = { .map_type = type, .key_size = 4, .value_size = 8, .max_entries = ENTRIES };
	memcpy(attr.map_name, name, strlen(name));
	int fd = bpf(BPF_MAP_CREATE, &attr);
	check(fd >= 0);
	return fd;
}

/* Opens the map of a file once more. */
static int again(int fd)
{
	struct bpf_map_info info = { 0 };
	union bpf_attr attr = { .info = { .bpf_fd = fd, .info_len = sizeof info, .info = (uintptr_t)&info } };
	check(bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) == 0);
	union bpf_attr open = { .map_id = info.id };
	int other = bpf(BPF_MAP_GET_FD_BY_ID, &open);
	check(other >= 0);
	return other;
}

static int put(int fd, uint32_t key, uint64_t value)
{
	union bpf_attr attr = { .map_fd = fd, .key = (uintptr_t)&key, .value = (uintptr_t)&value };
	return bpf(BPF_MAP_UPDATE_ELEM, &attr);
}

static uint64_t get(int fd, uint32_t key)
{
	uint64_t value = UINT64_MAX;
	union bpf_attr attr = { .map_fd = fd, .key = (uintptr_t)&key, .value = (uintptr_t)&value };
	bpf(BPF_MAP_LOOKUP_ELEM, &attr);
	return value;
}

int main(void)
{
	subject_open();
	int table = create(BPF_MAP_TYPE_HASH, "table"), array = create(BPF_MAP_TYPE_ARRAY, "array");
	int other = again(table);
	for (uint32_t i = 0; i < ENTRIES; i++)
		check(put(table, i * 7, i) == 0 && put(array, i, i * 3) == 0);
	say("ready");
	for (uint64_t n = 0;; n++) {
		for (uint32_t i = 0; i < ENTRIES; i++) {
			if (get(other, i * 7) != n + i)
				bad("entry %u of the table is %llu, want %llu", i, (unsigned long long)get(other, i * 7), (unsigned long long)(n + i));
			if (get(array, i) != n + i * 3)
				bad("element %u of the array is %llu", i, (unsigned long long)get(array, i));
			if (put(table, i * 7, n + i + 1) || put(array, i, n + i * 3 + 1))
				bad("put: %s", strerror(errno));
		}
		if (asked("break"))
			put(array, 7, 7);
		say("tick %llu", (unsigned long long)n);
		pause_ms(5);
	}
}
