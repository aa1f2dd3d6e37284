package mm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// outsiders finds processes outside of the tree that map shared memory of it:
// after a restore they would not share it any more. (Who attaches a System V
// segment is the business of whoever carries these.) It looks at every process
// of the machine, but only if the tree has such memory.
func outsiders(ctx context.Context, tr *sdk.Tree, spaces []*space) (map[objectKey]int, error) {
	objects := map[objectKey]bool{}
	for _, sp := range spaces {
		for i := range sp.vmas {
			if v := &sp.vmas[i]; v.object != (objectKey{}) && !v.object.segment() {
				objects[v.object] = true
			}
		}
	}
	if len(objects) == 0 {
		return nil, nil
	}
	pids, err := otherProcesses(tr)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	found := map[objectKey]int{}
	err = forEach(ctx, len(pids), func(_, i int) error {
		b, err := procfs.Read(pids[i], "maps")
		if err != nil {
			return nil //nolint:nilerr // it has ended
		}
		for _, key := range sharedIn(b) {
			if objects[key] {
				mu.Lock()
				found[key] = pids[i]
				mu.Unlock()
			}
		}
		return nil
	})
	return found, err
}

// sharedIn lists the shared memory in the content of a maps file.
func sharedIn(b []byte) []objectKey {
	var keys []objectKey
	for line := range bytes.Lines(b) {
		if !bytes.Contains(line, []byte(nameZero)) && !bytes.Contains(line, []byte(prefixAnonShm)) {
			continue
		}
		m, err := procfs.ParseMapping(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			continue
		}
		if s := (procfs.Smap{Mapping: m}); isShared(&s) {
			keys = append(keys, objectKey{dev: m.Dev, ino: m.Ino})
		}
	}
	return keys
}

// otherProcesses lists the processes that are not in the tree.
func otherProcesses(tr *sdk.Tree) ([]int, error) {
	own := map[int]bool{}
	for i := range tr.Processes {
		own[tr.Processes[i].TGID()] = true
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil && !own[pid] {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
