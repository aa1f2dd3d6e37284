// Package cgroups carries the control groups of processes: which they are in,
// and, for who wants groups made again that are not there any more, what these
// were like. See cgroups(7).
package cgroups

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

// procsFile lists the processes of a group, and moves them there.
const procsFile = "cgroup.procs"

// Read reads the cgroups of a process, one per hierarchy.
func Read(pid int) ([]*taskpb.Cgroup, error) {
	b, err := procfs.Read(pid, "cgroup")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without cgroups
	}
	if err != nil {
		return nil, err
	}
	return parse(b), nil
}

// parse parses /proc/PID/cgroup: "ID:CONTROLLERS:PATH" a line. The ids
// of hierarchies mean nothing on another machine.
func parse(b []byte) []*taskpb.Cgroup {
	var groups []*taskpb.Cgroup
	for line := range bytes.Lines(b) {
		parts := bytes.SplitN(bytes.TrimSuffix(line, []byte{'\n'}), []byte{':'}, 3)
		if len(parts) == 3 {
			groups = append(groups, &taskpb.Cgroup{Controllers: string(parts[1]), Path: bytes.Clone(parts[2])})
		}
	}
	return groups
}

// Has tells whether a group is among those that a task is in.
func Has(have []*taskpb.Cgroup, want *taskpb.Cgroup) bool {
	return slices.ContainsFunc(have, func(h *taskpb.Cgroup) bool {
		return h.GetControllers() == want.GetControllers() && bytes.Equal(h.GetPath(), want.GetPath())
	})
}

// Dir finds the directory of a group in the mounts of the restorer, whether it
// is there or not. The text says why there is none.
func Dir(mounts []procfs.Mount, want *taskpb.Cgroup) (dir, text string) {
	i := slices.IndexFunc(mounts, func(m procfs.Mount) bool { return ofHierarchy(&m, want) })
	if i < 0 {
		return "", "the hierarchy is not mounted"
	}
	// What of the path is below what is mounted.
	rel, err := filepath.Rel(mounts[i].Root, string(want.GetPath()))
	if err != nil || !filepath.IsLocal(rel) {
		return "", "the group is outside the mount"
	}
	return filepath.Join(mounts[i].Point, rel), ""
}

// Joinable finds the directory of a group to which tasks can be moved. The text
// says why they cannot.
func Joinable(mounts []procfs.Mount, want *taskpb.Cgroup) (dir, text string) {
	if dir, text = Dir(mounts, want); text != "" {
		return "", text
	}
	if err := unix.Access(filepath.Join(dir, procsFile), unix.W_OK); err != nil {
		return "", err.Error()
	}
	if frozen(dir) {
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

// frozen tells whether a task in the group would stand still.
func frozen(dir string) bool {
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.events")); err == nil {
		return bytes.Contains(b, []byte("frozen 1"))
	}
	b, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
	return err == nil && !bytes.Equal(bytes.TrimSpace(b), []byte("THAWED"))
}

// Join moves a process into those of its groups that it is not in and that are
// there. Of the others CheckImage has told.
func Join(log hclog.Logger, mounts []procfs.Mount, pid int, groups []*taskpb.Cgroup) error {
	have, err := Read(pid)
	if err != nil {
		return err
	}
	for _, want := range groups {
		if Has(have, want) {
			continue
		}
		dir, text := Joinable(mounts, want)
		if text == "" {
			err := os.WriteFile(filepath.Join(dir, procsFile), []byte(strconv.Itoa(pid)), 0)
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
