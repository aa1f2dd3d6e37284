package survey

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk/procfs"
)

// procPoint is where a tree has its own /proc.
const procPoint = "/proc"

// What unshare(1), a container's runtime and a restore mount /proc with.
const (
	procOptions = "rw,nosuid,nodev,noexec,relatime"
	procSuper   = "rw"
)

// mountView compares a mount namespace with the host's.
type mountView struct {
	ino uint64
	// ids are the host's mounts by their copies in the namespace.
	ids map[int]int
	// proc is the mount of the tree's own /proc, 0 if there is none.
	proc int
	// differs says what else is different.
	differs []string
}

// readMounts compares the mount namespace of the root with the host's.
func (v *View) readMounts(root *task.Process, mnt uint64) error {
	own, err := inode("/proc/self/ns/mnt")
	if err != nil || mnt == own {
		return err
	}
	ours, err := procfs.Mounts(os.Getpid())
	if err != nil {
		return err
	}
	theirs, err := procfs.Mounts(int(root.Live()))
	if err != nil {
		return err
	}
	m := compare(ours, theirs)
	m.ino = mnt
	if m.proc != 0 && !isProcOf(root.Live(), v.inodes[0]) {
		m.differs = append(m.differs, procPoint+" is that of another PID namespace")
	}
	v.mounts = m
	v.Map.Proc = len(m.differs) == 0
	return nil
}

// isProcOf tells whether the /proc of a process is that of a PID namespace:
// process 1 is in it.
func isProcOf(pid task.HostPID, ns uint64) bool {
	ino, err := inode(fmt.Sprintf("/proc/%d/root%s/%d/ns/pid", pid, procPoint, pidns.InitID))
	return err == nil && ino == ns
}

// compare finds for every mount of a namespace the one of the host that it is a
// copy of. Mounts are the same if what is mounted is, where, how, and on what.
func compare(ours, theirs []procfs.Mount) *mountView {
	m := &mountView{ids: map[int]int{}}
	host := map[string]int{}
	names := map[int]string{}
	for id, k := range keys(ours) {
		host[k] = id
	}
	for i := range ours {
		names[ours[i].ID] = ours[i].Point
	}
	keyOf := keys(theirs)
	for i := range theirs {
		t := &theirs[i]
		id, same := host[keyOf[t.ID]]
		switch {
		case same:
			m.ids[t.ID] = id
			delete(names, id)
		case m.proc == 0 && t.Point == procPoint && t.FS == "proc" && t.Root == "/":
			m.proc = t.ID
			if t.Options != procOptions || t.Super != procSuper {
				m.differ("%s has the options %s and %s", procPoint, t.Options, t.Super)
			}
		default:
			m.differ("%s (%s) is mounted", t.Point, t.FS)
		}
		if len(t.Propagation) > 0 {
			m.differ("%s is not private (%s)", t.Point, strings.Join(t.Propagation, ","))
		}
	}
	for _, point := range names {
		m.differ("%s is not mounted", point)
	}
	if m.proc == 0 {
		m.differ("%s is not its own", procPoint)
	}
	slices.Sort(m.differs)
	m.differs = slices.Compact(m.differs)
	return m
}

func (m *mountView) differ(format string, args ...any) {
	m.differs = append(m.differs, fmt.Sprintf(format, args...))
}

// keys gives every mount a text that says what it is, and what it is mounted
// on, by its id.
func keys(mounts []procfs.Mount) map[int]string {
	byID := map[int]*procfs.Mount{}
	for i := range mounts {
		byID[mounts[i].ID] = &mounts[i]
	}
	out := map[int]string{}
	for i := range mounts {
		var b strings.Builder
		// A loop cannot be: bounded all the same.
		for m, depth := &mounts[i], 0; m != nil && depth < len(mounts); m, depth = byID[m.Parent], depth+1 {
			fmt.Fprintf(&b, "%d %q %q %q %q %q %q\n", m.Dev, m.Root, m.Point, m.Options, m.FS, m.Source, m.Super)
		}
		out[mounts[i].ID] = b.String()
	}
	return out
}

// mostDifferences is how many differences of mount namespaces are told.
const mostDifferences = 4

// Carries tells whether the host carries a namespace itself.
func (v *View) Carries(name string, ino uint64) bool {
	switch name {
	case "pid", "pid_for_children":
		return v.Map != nil
	case "mnt":
		return v.Map.HasProc() && v.mounts.ino == ino
	}
	return false
}

// Mount is the host's own mount, of which another one in the tree's mount
// namespace is a copy; others are themselves.
func (v *View) Mount(ns uint64, id int) int {
	if v.Map.HasProc() && v.mounts.ino == ns {
		if own, ok := v.mounts.ids[id]; ok {
			return own
		}
	}
	return id
}

// WhyNot says why the host does not carry a namespace that it could, and what
// would help; "" for those that are no business of its own.
func (v *View) WhyNot(name string, ino uint64) (text, help string) {
	if name != "mnt" {
		return "", ""
	}
	if v.mounts == nil || v.mounts.ino != ino {
		return "is carried only for a tree that has a PID namespace of its own, with the /proc of that",
			v.hint()
	}
	d := v.mounts.differs
	if len(d) > mostDifferences {
		d = append(slices.Clone(d[:mostDifferences]), fmt.Sprintf("and %d more", len(d)-mostDifferences))
	}
	return "differs from firn's by more than the tree's own /proc: " + strings.Join(d, ", "), ""
}

// hint names the process to checkpoint instead, where the mounts are those of a
// PID namespace further down in the tree.
func (v *View) hint() string {
	if v.Map == nil || v.Map.Own {
		return ""
	}
	for _, ns := range v.Map.Namespaces[1:] {
		if ns.Parent == 0 && ns.Init != 0 {
			return fmt.Sprintf("checkpoint process %d, the first one of its PID namespace", ns.Init)
		}
	}
	return ""
}
