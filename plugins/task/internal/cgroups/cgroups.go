// Package cgroups carries the control groups of processes: which they are in,
// and, for who wants groups made again that are not there any more, what these
// were like. See cgroups(7).
package cgroups

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/procfs"
)

// procsFile lists the processes of a group, and moves them there.
const procsFile = "cgroup.procs"

// Read reads the cgroups of a process, one per hierarchy.
func Read(pid int) ([]*taskpb.Cgroup, error) {
	list, err := procfs.Cgroups(pid)
	groups := make([]*taskpb.Cgroup, len(list))
	for i, g := range list {
		groups[i] = &taskpb.Cgroup{Controllers: g.Controllers, Path: []byte(g.Path)}
	}
	return groups, err
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
	return (&procfs.Cgroup{Controllers: want.GetControllers(), Path: string(want.GetPath())}).Dir(mounts)
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
