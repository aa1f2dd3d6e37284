package task

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/procfs"
)

// readCgroups reads the cgroups of a process, one per hierarchy.
func readCgroups(pid int) ([]*taskpb.Cgroup, error) {
	b, err := procfs.Read(pid, "cgroup")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without cgroups
	}
	if err != nil {
		return nil, err
	}
	return parseCgroups(b), nil
}

// parseCgroups parses /proc/PID/cgroup: "ID:CONTROLLERS:PATH" a line. The ids
// of hierarchies mean nothing on another machine.
func parseCgroups(b []byte) []*taskpb.Cgroup {
	var groups []*taskpb.Cgroup
	for line := range bytes.Lines(b) {
		parts := bytes.SplitN(bytes.TrimSuffix(line, []byte{'\n'}), []byte{':'}, 3)
		if len(parts) == 3 {
			groups = append(groups, &taskpb.Cgroup{Controllers: string(parts[1]), Path: bytes.Clone(parts[2])})
		}
	}
	return groups
}

// inCgroup tells whether a group is among those that a task is in.
func inCgroup(want *taskpb.Cgroup, have []*taskpb.Cgroup) bool {
	return slices.ContainsFunc(have, func(h *taskpb.Cgroup) bool {
		return h.GetControllers() == want.GetControllers() && bytes.Equal(h.GetPath(), want.GetPath())
	})
}

// cgroupDir finds the directory of a cgroup in the mounts of the restorer. The
// text says why tasks cannot be moved there.
func cgroupDir(mounts []procfs.Mount, want *taskpb.Cgroup) (dir, text string) {
	i := slices.IndexFunc(mounts, func(m procfs.Mount) bool { return ofHierarchy(&m, want) })
	if i < 0 {
		return "", "the hierarchy is not mounted"
	}
	// What of the path is below what is mounted.
	rel, err := filepath.Rel(mounts[i].Root, string(want.GetPath()))
	if err != nil || !filepath.IsLocal(rel) {
		return "", "the group is outside the mount"
	}
	dir = filepath.Join(mounts[i].Point, rel)
	if err := unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK); err != nil {
		return "", err.Error()
	}
	if frozenCgroup(dir) {
		return "", "the group is frozen"
	}
	return dir, ""
}

// ofHierarchy tells whether a mount is that of a cgroup's hierarchy.
func ofHierarchy(m *procfs.Mount, g *taskpb.Cgroup) bool {
	if g.GetControllers() == "" {
		return m.FS == "cgroup2"
	}
	if m.FS != "cgroup" {
		return false
	}
	mounted := strings.Split(m.Super, ",")
	for controller := range strings.SplitSeq(g.GetControllers(), ",") {
		if !slices.Contains(mounted, controller) {
			return false
		}
	}
	return true
}

// frozenCgroup tells whether a task in the group would stand still.
func frozenCgroup(dir string) bool {
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.events")); err == nil {
		return bytes.Contains(b, []byte("frozen 1"))
	}
	b, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
	return err == nil && !bytes.Equal(bytes.TrimSpace(b), []byte("THAWED"))
}

// joinCgroups moves a process into those of its cgroups that it is not in and
// that are there. Of the others CheckImage has told.
func joinCgroups(log hclog.Logger, mounts []procfs.Mount, pid int, groups []*taskpb.Cgroup) error {
	have, err := readCgroups(pid)
	if err != nil {
		return err
	}
	for _, want := range groups {
		if inCgroup(want, have) {
			continue
		}
		dir, text := cgroupDir(mounts, want)
		if text == "" {
			err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
			if err == nil {
				continue
			}
			text = err.Error()
		}
		log.Warn("task stays in the restorer's cgroup", "task", pid, "controllers", want.GetControllers(),
			"cgroup", string(want.GetPath()), "cause", text)
	}
	return nil
}
