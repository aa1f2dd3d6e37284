package cgroups

import (
	"bytes"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Key identifies a group.
type Key struct{ controllers, path string }

// KeyOf is the key of a group.
func KeyOf(g *taskpb.Cgroup) Key { return Key{g.GetControllers(), string(g.GetPath())} }

// Lineage is a group with all groups above it, from the top, without the root
// of the hierarchy: that is always there.
func Lineage(g *taskpb.Cgroup) []*taskpb.Cgroup {
	var line []*taskpb.Cgroup
	for p := string(g.GetPath()); strings.HasPrefix(p, "/") && p != "/"; p = path.Dir(p) {
		line = append(line, &taskpb.Cgroup{Controllers: g.GetControllers(), Path: []byte(p)})
	}
	slices.Reverse(line)
	return line
}

// Files that make a group what it is, beside its limits.
const (
	typeFile      = "cgroup.type"
	subtreeFile   = "cgroup.subtree_control"
	freezeFile    = "cgroup.freeze"
	freezerFile   = "freezer.state"
	oomFile       = "memory.oom_control"
	devicesList   = "devices.list"
	devicesAllow  = "devices.allow"
	devicesDeny   = "devices.deny"
	maxProperty   = 64 << 10
	ownerReadable = 0o400
	ownerWritable = 0o200
)

// transient are files that can be read and written and hold no property: who
// is in the group, what has been counted (the end of the name), triggers.
var transient = []string{
	procsFile, "cgroup.threads", "tasks", "failcnt", "max_usage_in_bytes", ".peak", "pressure", "cpuacct.usage",
}

// Save reads what a group is like; nil if it cannot be read, or is not mounted.
// Every file of it that can be read and written is a property, so that those
// of controllers to come are carried as well.
func Save(mounts []procfs.Mount, g *taskpb.Cgroup) (*taskpb.CgroupDirectory, error) {
	dir, text := Dir(mounts, g)
	if text != "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, err
	}
	d := &taskpb.CgroupDirectory{Group: g, Mode: st.Mode & 0o7777, Uid: st.Uid, Gid: st.Gid}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		p, err := readProperty(dir, e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if p.Value != nil || p.Uid != 0 || p.Gid != 0 {
			d.Properties = append(d.Properties, p)
		}
	}
	return d, nil
}

// readProperty reads a file of a group. It has no value if it holds no
// property.
func readProperty(dir, name string) (*taskpb.CgroupProperty, error) {
	file := filepath.Join(dir, name)
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return nil, err
	}
	p := &taskpb.CgroupProperty{Name: name, Uid: st.Uid, Gid: st.Gid}
	ends := func(suffix string) bool { return strings.HasSuffix(name, suffix) }
	both := st.Mode&ownerReadable != 0 && st.Mode&ownerWritable != 0
	if name != devicesList && (!both || slices.ContainsFunc(transient, ends)) {
		return p, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return p, nil //nolint:nilerr // EOPNOTSUPP and the like: there is nothing to read in this group
	}
	p.Value = settable(name, bytes.TrimSpace(b))
	return p, nil
}

// settable is the value as it would be written, where that differs from what is
// read; nil if it says nothing.
func settable(name string, b []byte) []byte {
	switch {
	case len(b) > maxProperty:
		return nil
	case name == typeFile && !bytes.Equal(b, []byte("threaded")):
		return nil // the others follow from where the group is
	case name == oomFile: // "oom_kill_disable 0", and what is
		line, _, _ := bytes.Cut(b, []byte{'\n'})
		_, value, _ := bytes.Cut(line, []byte{' '})
		return bytes.Clone(value)
	case name == freezerFile && bytes.Equal(b, []byte("FREEZING")):
		return []byte("FROZEN")
	}
	return append([]byte{}, b...)
}
