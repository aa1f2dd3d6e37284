package files

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// namespaceNames are the files of /proc/PID/ns for what a process is in.
var namespaceNames = []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}

// namespaceName tells which kind of namespace a file is, "" for other files.
// The kernel calls them "net:[4026531833]", wherever they are mounted.
func namespaceName(link string) string {
	name, rest, ok := strings.Cut(link, ":[")
	if !ok || !strings.HasSuffix(rest, "]") || !slices.Contains(namespaceNames, name) {
		return ""
	}
	return name
}

// examineNamespace looks for somebody who is in the namespace and will be in
// its counterpart after the restore: a process of the tree, else firn itself.
func (s *survey) examineNamespace(it *item) error {
	f := it.file()
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	msg := &filespb.Namespace{Description: d, Name: namespaceName(f.Link)}
	is := func(pid string) bool {
		link, err := os.Readlink("/proc/" + pid + "/ns/" + msg.Name)
		return err == nil && link == f.Link
	}
	for i := range s.sess.Tree.Processes {
		if p := &s.sess.Tree.Processes[i]; !p.Zombie && is(fmt.Sprint(p.PID)) {
			msg.Task = uint32(p.ID)
			break
		}
	}
	if msg.Task == 0 && !is("self") {
		s.block(it, f.Link+": a namespace without a process of the tree", "")
		return nil
	}
	it.kind, it.msg = kindNamespace, msg
	return nil
}

// openNamespace opens the namespace in which the process is now.
func (r *restore) openNamespace(m *filespb.Namespace) (int, error) {
	if !slices.Contains(namespaceNames, m.GetName()) {
		return -1, fmt.Errorf("namespace %q: %w", m.GetName(), sdk.ErrCorrupt)
	}
	path := "/proc/self/ns/" + m.GetName()
	if m.GetTask() != 0 {
		p := r.req.Tree.Process(sdk.TaskID(m.GetTask()))
		if p == nil {
			return -1, fmt.Errorf("%s namespace of task %d, which is not in the tree: %w", m.GetName(), m.GetTask(), sdk.ErrCorrupt)
		}
		path = fmt.Sprintf("/proc/%d/ns/%s", p.PID, m.GetName())
		if users := r.req.Tree.UserNamespace(p.UserNamespace); users != nil && m.GetName() == "user" {
			path = fmt.Sprintf("/proc/%d/ns/user", users.Keeper) // the process has not entered it yet
		}
	}
	flags := m.GetDescription().GetFlags()
	fd, err := reopen(path, flags)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	if err := openfile.SetFlags(fd, flags); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return fd, nil
}
