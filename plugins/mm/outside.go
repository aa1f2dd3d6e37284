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

// outsider is a process outside of the tree that maps shared memory of it, and
// whether it can write to that.
type outsider struct {
	pid    int
	writes bool
}

// outsiders finds processes outside of the tree that map shared memory of it, or
// files without a name: after a restore they would not share them any more. (Who
// attaches a System V segment is the business of whoever carries these.) It looks
// at every process of the machine, but only if the tree has such memory.
func outsiders(ctx context.Context, tr *sdk.Tree, spaces []*space) (map[objectKey]outsider, error) {
	objects := map[objectKey]bool{}
	for _, sp := range spaces {
		for i := range sp.vmas {
			if key, ok := sp.vmas[i].sharedAs(); ok {
				objects[key] = true
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
	found := map[objectKey]outsider{}
	err = forEach(ctx, len(pids), func(_, i int) error {
		b, err := procfs.Read(pids[i], "maps")
		if err != nil {
			return nil //nolint:nilerr // it has ended
		}
		for key, writes := range sharedIn(b) {
			if objects[key] {
				mu.Lock()
				found[key] = outsider{pids[i], writes || found[key].writes}
				mu.Unlock()
			}
		}
		return nil
	})
	return found, err
}

// sharedAs identifies the memory of a mapping that processes may share without
// having a file with a name in common.
func (v *vma) sharedAs() (objectKey, bool) {
	if v.file != nil && v.file.link != "" && v.Shared() {
		return objectKey{dev: v.Dev, ino: v.Ino}, true
	}
	return v.object, v.object != (objectKey{}) && !v.object.segment()
}

// sharedIn finds the shared memory in the content of a maps file, and whether it
// can be written to.
func sharedIn(b []byte) map[objectKey]bool {
	var keys map[objectKey]bool
	for line := range bytes.Lines(b) {
		if !bytes.Contains(line, []byte(deletedSuffix)) && !bytes.Contains(line, []byte(prefixAnonShm)) {
			continue
		}
		m, err := procfs.ParseMapping(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			continue
		}
		if s := (procfs.Smap{Mapping: m}); isShared(&s) || m.Shared() && m.Deleted() {
			if keys == nil {
				keys = map[objectKey]bool{}
			}
			key := objectKey{dev: m.Dev, ino: m.Ino}
			keys[key] = keys[key] || m.Writable()
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
