package files

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// newPIDNamespace is the flag of a restore by which the tree gets a PID namespace
// of its own.
const newPIDNamespace = "new-pid-namespace"

// mountTable are the mounts of this process, by id.
type mountTable struct {
	once sync.Once
	list []procfs.Mount
	byID map[int]procfs.Mount
	err  error
}

// all returns the mounts in the order of mountinfo.
func (m *mountTable) all() ([]procfs.Mount, error) {
	_, _, err := m.get(0)
	return m.list, err
}

// get returns a mount; false if it is none of this process: the kernel's own,
// or of another mount namespace.
func (m *mountTable) get(id int) (procfs.Mount, bool, error) {
	m.once.Do(func() {
		var mounts []procfs.Mount
		if mounts, m.err = procfs.Mounts(os.Getpid()); m.err != nil {
			return
		}
		m.list = mounts
		m.byID = map[int]procfs.Mount{}
		for i := range mounts {
			m.byID[mounts[i].ID] = mounts[i]
		}
	})
	mount, ok := m.byID[id]
	return mount, ok, m.err
}

// examineProc handles files of proc. Those of a process of the tree are found
// below its directory, whatever its PID is after the restore; those of other
// processes cannot be carried. It tells whether the file is fine so far.
func (s *survey) examineProc(it *item, msg *filespb.Named) bool {
	f := it.file()
	mount, ok, err := s.mounts.get(f.MountID)
	if err != nil || !ok || mount.Root != "/" {
		s.block(it, f.Link+": its proc file system is mounted where it cannot be reached", "")
		return false
	}
	rel, ok := strings.CutPrefix(f.Link, strings.TrimSuffix(mount.Point, "/")+"/")
	if !ok {
		return true // the directory itself
	}
	first, rest, _ := strings.Cut(rel, "/")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return true // not of a process
	}
	p := s.sess.Tree.ByPID(pid)
	if p == nil {
		s.block(it, fmt.Sprintf("%s: belongs to task %d, which is not a process of the tree", f.Link, pid), "")
		return false
	}
	if rest, ok := strings.CutPrefix(rest, "task/"); ok {
		if tid, _, _ := strings.Cut(rest, "/"); tid != first {
			s.block(it, f.Link+": files of threads in proc are not carried", "")
			return false
		}
	}
	msg.Process, msg.Path = uint32(p.ID), []byte(rest)
	return true
}

// reopenNamed opens a file where it is now.
func (r *restore) reopenNamed(n *filespb.Named) (path string, fd int, err error) {
	flags := n.GetDescription().GetFlags()
	path = string(n.GetPath())
	if n.GetGhost() != 0 {
		g := r.ghosts[n.GetGhost()]
		if g == nil || g.fd < 0 {
			return path, -1, fmt.Errorf("file %d without a name is not in the image: %w", n.GetGhost(), sdk.ErrCorrupt)
		}
		fd, err = reopenFD(g.fd, flags)
		return path, fd, err
	}
	if len(n.GetLink()) > 0 {
		fd, err = openLinked(n, flags)
		return path, fd, err
	}
	if id := sdk.TaskID(n.GetProcess()); id != 0 {
		pid := int(id)
		if p := r.req.Tree.Process(id); p != nil {
			pid = p.PID
		}
		path = fmt.Sprintf("/proc/%d/%s", pid, n.GetPath())
	}
	fd, err = reopen(path, flags)
	return path, fd, err
}
