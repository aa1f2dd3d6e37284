package task

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/firn-cr/firn/sdk/procfs"
)

// Groups are the control groups (v2) that keep a tree from running, and hold
// nothing else. In a frozen group tasks stop for their tracer, but execute no
// injected call; so the groups are thawed once every task is stopped, and frozen
// again right before the tasks are let go.
type Groups struct{ files []string }

// freezerState is the file of a v1 group that tells whether it is frozen.
const freezerState = "freezer.state"

// FrozenGroups finds the groups that keep a running tree from running. blocked
// tells, by process, why some of them cannot be dealt with: tasks outside of the
// tree are frozen with it, or the group is one of cgroup v1, where tasks do not
// even stop.
func FrozenGroups(procs []*Process) (g *Groups, blocked map[HostPID]string, err error) {
	mounts, err := procfs.Mounts(os.Getpid())
	if err != nil {
		return nil, nil, err
	}
	s := &groupSearch{mounts: mounts, seen: map[string]string{}, tree: map[string]bool{}, groups: &Groups{}}
	for _, p := range procs {
		s.tree[strconv.Itoa(int(p.PID))] = true
	}
	blocked = map[HostPID]string{}
	for _, p := range procs {
		if len(p.Threads) == 0 {
			continue
		}
		text, err := s.process(p)
		if isGone(err) || errors.Is(err, fs.ErrNotExist) {
			continue // the tree runs
		}
		if err != nil {
			return nil, nil, fmt.Errorf("cgroups of task %d: %w", p.PID, err)
		}
		if text != "" {
			blocked[p.PID] = text
		}
	}
	return s.groups, blocked, nil
}

type groupSearch struct {
	mounts []procfs.Mount
	// seen has the answer for each group by its directory.
	seen   map[string]string
	tree   map[string]bool
	groups *Groups
}

// process looks at the groups of one process.
func (s *groupSearch) process(p *Process) (string, error) {
	list, err := procfs.Cgroups(int(p.Live()))
	if err != nil {
		return "", err
	}
	for i := range list {
		g := &list[i]
		v1 := slices.Contains(strings.Split(g.Controllers, ","), "freezer")
		if g.Controllers != "" && !v1 {
			continue
		}
		dir, text := g.Dir(s.mounts)
		if text != "" {
			continue // nobody can have frozen it there
		}
		text, ok := s.seen[dir]
		if !ok {
			look := s.look
			if v1 {
				look = lookV1
			}
			if text, err = look(dir); err != nil {
				return "", err
			}
			s.seen[dir] = text
		}
		if text != "" {
			return text, nil
		}
	}
	return "", nil
}

func lookV1(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, freezerState))
	if errors.Is(err, fs.ErrNotExist) || err == nil && bytes.Equal(bytes.TrimSpace(b), []byte("THAWED")) {
		return "", nil
	}
	return fmt.Sprintf("is in the frozen cgroup %s: thaw it (echo THAWED > %s)", dir, filepath.Join(dir, freezerState)), err
}

// look looks at a v2 group: whether it is frozen, and by which groups above it.
func (s *groupSearch) look(dir string) (string, error) {
	events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.Contains(events, []byte("frozen 1")) {
		return "", nil // the root, which has no events, or one that runs
	}
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		file := filepath.Join(dir, "cgroup.freeze")
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil // the root
		}
		if err != nil {
			return "", err
		}
		if !bytes.Equal(bytes.TrimSpace(b), []byte("1")) || slices.Contains(s.groups.files, file) {
			continue
		}
		outsider, err := s.outsider(dir)
		if err != nil {
			return "", err
		}
		if outsider != "" {
			return fmt.Sprintf("is in the frozen cgroup %s together with task %s, which is outside of the tree: thaw it (echo 0 > %s)",
				dir, outsider, file), nil
		}
		s.groups.files = append(s.groups.files, file)
	}
}

// outsider finds a process in or below a group that is not in the tree.
func (s *groupSearch) outsider(dir string) (found string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return err
		}
		for pid := range strings.FieldsSeq(string(b)) {
			if !s.tree[pid] {
				found = pid
				return fs.SkipAll
			}
		}
		return nil
	})
	return found, err
}

// thaw lets tasks that are stopped by their tracer execute.
func (g *Groups) thaw() error { return g.write("0") }

// freeze makes tasks that their tracer lets go stand still.
func (g *Groups) freeze() error { return g.write("1") }

func (g *Groups) write(value string) error {
	if g == nil {
		return nil
	}
	var errs []error
	for _, file := range g.files {
		if err := os.WriteFile(file, []byte(value), 0); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
