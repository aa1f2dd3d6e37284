package procfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Cgroup is a control group that a task is in, of one hierarchy.
type Cgroup struct {
	// Controllers is empty for cgroup v2, else the controllers of the v1
	// hierarchy ("cpu,cpuacct"), or its name ("name=systemd").
	Controllers string
	// Path is relative to the root of the reader's cgroup namespace.
	Path string
}

// Cgroups reads /proc/PID/cgroup, see cgroups(7). A kernel without cgroups has
// none.
func Cgroups(tid int) ([]Cgroup, error) {
	b, err := Read(tid, "cgroup")
	if errors.Is(err, os.ErrNotExist) && exists(tid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ParseCgroups(b), nil
}

func exists(tid int) bool {
	_, err := Read(tid, "stat")
	return err == nil
}

// ParseCgroups parses the content of /proc/PID/cgroup: "ID:CONTROLLERS:PATH" a
// line. The ids of hierarchies mean nothing on another machine. What is no such
// line is left out.
func ParseCgroups(b []byte) []Cgroup {
	var groups []Cgroup
	for line := range bytes.Lines(b) {
		parts := bytes.SplitN(bytes.TrimSuffix(line, []byte{'\n'}), []byte{':'}, 3)
		if len(parts) == 3 {
			groups = append(groups, Cgroup{Controllers: string(parts[1]), Path: string(parts[2])})
		}
	}
	return groups
}

// Dir finds the directory of the group below some mounts, whether it is there
// or not. The text says why there is none.
func (g *Cgroup) Dir(mounts []Mount) (dir, text string) {
	i := slices.IndexFunc(mounts, g.mountedBy)
	if i < 0 {
		return "", "the hierarchy is not mounted"
	}
	// What of the path is below what is mounted.
	rel, err := filepath.Rel(mounts[i].Root, g.Path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", "the group is outside the mount"
	}
	return filepath.Join(mounts[i].Point, rel), ""
}

// mountedBy tells whether a mount is that of the group's hierarchy.
func (g *Cgroup) mountedBy(m Mount) bool {
	if g.Controllers == "" {
		return m.FS == "cgroup2"
	}
	if m.FS != "cgroup" {
		return false
	}
	mounted := strings.Split(m.Super, ",")
	for controller := range strings.SplitSeq(g.Controllers, ",") {
		if !slices.Contains(mounted, controller) {
			return false
		}
	}
	return true
}
