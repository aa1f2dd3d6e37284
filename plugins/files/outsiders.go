package files

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// outsiders knows which pipes and files without a name are open in processes
// outside the tree. Only a look into every process tells, so it is done before
// the freeze, and while the tree is frozen only for what is new.
type outsiders struct {
	free map[fileKey]bool   // looked for; nobody has it
	held map[fileKey]string // a process that has it
	// ttys are pseudo-terminals that were looked for, by device; nobody has them.
	ttys map[uint64]bool
}

// holder names a process outside the tree that has the file open.
func (o *outsiders) holder(k fileKey) (string, bool) {
	name, ok := o.held[k]
	return name, ok
}

// look searches for what is not known to be free.
func (o *outsiders) look(tree *sdk.Tree, s *search, running bool) error {
	for ino, k := range s.pipes {
		if o.free[k] {
			delete(s.pipes, ino)
		}
	}
	for k := range s.others {
		if o.free[k] {
			delete(s.others, k)
		}
	}
	if len(s.pipes)+len(s.others) == 0 {
		return nil
	}
	held, err := s.run(tree, running)
	if err != nil {
		return err
	}
	if o.free == nil {
		o.free = map[fileKey]bool{}
	}
	o.held = held
	free := func(k fileKey) {
		if _, ok := held[k]; !ok && !s.young[k] {
			o.free[k] = true
		}
	}
	for _, k := range s.pipes {
		free(k)
	}
	for k := range s.others {
		free(k)
	}
	return nil
}

// search looks for files in the descriptors of all processes.
type search struct {
	pipes map[uint64]fileKey // anonymous ones by inode; all are on one file system
	// others are FIFOs and, if fifos is false, only files without a name.
	others map[fileKey]bool
	fifos  bool
	buf    [4096]byte
	found  map[fileKey]string
	// young are those that processes of the tree have which it does not list:
	// they may leave it until the freeze.
	young map[fileKey]bool
}

// search returns what of the survey others may have open.
func (s *survey) search() *search {
	out := &search{pipes: map[uint64]fileKey{}, others: map[fileKey]bool{}}
	for _, p := range s.pipes {
		if p.fifo() {
			out.others[p.key], out.fifos = true, true
		} else {
			out.pipes[p.key.ino] = p.key
		}
	}
	for k, g := range s.ghosts {
		if g.msg.Carried == nil { // others may go on with what has a name
			out.others[k] = true
		}
	}
	return out
}

// run looks at all processes. Of a tree that runs there may be processes by now
// that the tree does not have yet.
func (s *search) run(tree *sdk.Tree, running bool) (map[fileKey]string, error) {
	s.found, s.young = map[fileKey]string{}, map[fileKey]bool{}
	return s.found, eachOutside(tree, running, s.process)
}

// eachOutside calls look for every process that is not in the tree, nor the host
// or one of its plugins, which have files of the tree open as long as they look at
// them. Of a tree that runs, a process that turns out to have something may be
// ours all the same: look asks then.
func eachOutside(tree *sdk.Tree, running bool, look func(pid string, ours func() bool)) error {
	skip, err := family()
	if err != nil {
		return err
	}
	for i := range tree.Processes {
		skip[tree.Processes[i].TGID()] = true
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || skip[pid] {
			continue
		}
		look(name, func() bool { return running && descends(tree, pid) })
	}
	return nil
}

// family are this process, the host, which is the parent of every plugin, and the
// others.
func family() (map[int]bool, error) {
	host := os.Getppid()
	all := map[int]bool{os.Getpid(): true, host: true}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", host))
	if err != nil {
		return nil, fmt.Errorf("list threads of the host: %w", err)
	}
	for _, th := range threads {
		tid, err := strconv.Atoi(th.Name())
		if err != nil {
			continue
		}
		children, err := procfs.Children(host, tid)
		if err != nil {
			continue // has ended
		}
		for _, pid := range children {
			all[pid] = true
		}
	}
	return all, nil
}

// process looks through one process, unless it turns out to be one of ours. What
// ended meanwhile or cannot be looked into (another user's, without rights) has
// nothing to tell.
func (s *search) process(pid string, ours func() bool) {
	dir, err := os.Open("/proc/" + pid + "/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	fds, err := dir.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, fd := range fds {
		k, ok := s.match(int(dir.Fd()), fd)
		if !ok {
			continue
		}
		if ours() {
			s.young[k] = true
			continue
		}
		if _, seen := s.found[k]; !seen {
			s.found[k] = fmt.Sprintf("task %s (%s)", pid, comm(pid))
		}
	}
}

// match tells whether a descriptor is one of the pipes.
func (s *search) match(dir int, fd string) (fileKey, bool) {
	n, err := unix.Readlinkat(dir, fd, s.buf[:])
	if err != nil {
		return fileKey{}, false
	}
	link := string(s.buf[:n])
	if ino, ok := strings.CutPrefix(link, "pipe:["); ok {
		v, err := strconv.ParseUint(strings.TrimSuffix(ino, "]"), 10, 64)
		k, ok := s.pipes[v]
		return k, ok && err == nil
	}
	if len(s.others) == 0 || !strings.HasPrefix(link, "/") || !s.fifos && !strings.HasSuffix(link, deletedSuffix) {
		return fileKey{}, false
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, fd, &st, 0); err != nil {
		return fileKey{}, false
	}
	k := fileKey{st.Dev, st.Ino}
	return k, s.others[k]
}

func comm(pid string) string {
	b, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}
