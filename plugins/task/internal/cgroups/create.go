package cgroups

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Made are the groups that a restore has created.
type Made struct {
	mu   sync.Mutex
	dirs []string
	// frozen are files that freeze groups, with what is written there.
	frozen map[string][]byte
}

// Create makes those of the groups that are not there, with their properties.
// Groups above must come first.
func (m *Made) Create(mounts []procfs.Mount, groups []*taskpb.CgroupDirectory) error {
	for _, g := range groups {
		dir, text := Dir(mounts, g.GetGroup())
		if text != "" {
			continue // CheckImage has told
		}
		switch err := os.Mkdir(dir, 0o755); {
		case errors.Is(err, os.ErrExist):
			continue
		case err != nil:
			return fmt.Errorf("create cgroup %s: %w", g.GetGroup().GetPath(), err)
		}
		m.mu.Lock()
		m.dirs = append(m.dirs, dir)
		m.mu.Unlock()
		if err := m.furnish(dir, g); err != nil {
			return fmt.Errorf("create cgroup %s: %w", g.GetGroup().GetPath(), err)
		}
	}
	return nil
}

// furnish gives a new group its properties, and then to those whose it was.
func (m *Made) furnish(dir string, g *taskpb.CgroupDirectory) error {
	if err := m.setProperties(dir, g.GetProperties()); err != nil {
		return err
	}
	for _, p := range g.GetProperties() {
		if err := own(filepath.Join(dir, p.GetName()), p.GetUid(), p.GetGid()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Chmod(dir, os.FileMode(g.GetMode()&0o777)); err != nil {
		return err
	}
	return own(dir, g.GetUid(), g.GetGid())
}

func own(path string, uid, gid uint32) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Uid == uid && st.Gid == gid {
		return nil
	}
	return os.Chown(path, int(uid), int(gid))
}

// setProperties writes what differs from a new group. Some limits bound each
// other, so what fails is tried again as long as something else succeeds.
func (m *Made) setProperties(dir string, todo []*taskpb.CgroupProperty) error {
	for len(todo) > 0 {
		var left []*taskpb.CgroupProperty
		var failed error
		for _, p := range todo {
			if err := m.set(dir, p); err != nil {
				left, failed = append(left, p), errors.Join(failed, err)
			}
		}
		if len(left) == len(todo) {
			return failed
		}
		todo = left
	}
	return nil
}

// set writes one property unless it has its value.
func (m *Made) set(dir string, p *taskpb.CgroupProperty) error {
	name, want := p.GetName(), p.GetValue()
	if want == nil || name == "" || strings.ContainsAny(name, "/\x00") {
		return nil
	}
	now, err := readProperty(dir, name)
	switch {
	case err != nil:
		return missing(dir, name, err)
	case bytes.Equal(now.GetValue(), want):
		return nil
	case name == freezeFile || name == freezerFile:
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.frozen == nil {
			m.frozen = map[string][]byte{}
		}
		m.frozen[filepath.Join(dir, name)] = want
		return nil
	case name == subtreeFile:
		for controller := range strings.FieldsSeq(string(want)) {
			if err := write(dir, name, []byte("+"+controller)); err != nil {
				return err
			}
		}
		return nil
	case name == devicesList:
		if err := write(dir, devicesDeny, []byte("a")); err != nil {
			return err
		}
		return writeLines(dir, devicesAllow, want)
	}
	return writeLines(dir, name, want)
}

// missing explains why a new group lacks a file.
func missing(dir, name string, err error) error {
	controller, _, ok := strings.Cut(name, ".")
	if errors.Is(err, os.ErrNotExist) && ok && controller != "cgroup" {
		return fmt.Errorf("%s: controller %s is not enabled in %s: %w", name, controller,
			filepath.Join(filepath.Dir(dir), subtreeFile), err)
	}
	return err
}

// writeLines writes each line on its own: limits of several devices are set one
// by one.
func writeLines(dir, name string, value []byte) error {
	for line := range bytes.Lines(value) {
		if err := write(dir, name, bytes.TrimSpace(line)); err != nil {
			return err
		}
	}
	return nil
}

func write(dir, name string, value []byte) error {
	if err := os.WriteFile(filepath.Join(dir, name), value, 0); err != nil {
		return fmt.Errorf("%q: %w", value, err)
	}
	return nil
}

// Freeze freezes those of the groups that were frozen: the last thing of all.
func (m *Made) Freeze() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for file, value := range m.frozen {
		errs = append(errs, os.WriteFile(file, value, 0))
	}
	m.frozen = nil
	return errors.Join(errs...)
}

// removeTries and removePause bound the wait for tasks that have just been
// ended to leave a group.
const (
	removeTries = 200
	removePause = 10 * time.Millisecond
)

// Remove removes the groups again after a failure.
func (m *Made) Remove() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, dir := range slices.Backward(m.dirs) {
		err := os.Remove(dir)
		for try := 0; errors.Is(err, unix.EBUSY) && try < removeTries; try++ {
			time.Sleep(removePause)
			err = os.Remove(dir)
		}
		if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	m.dirs, m.frozen = nil, nil
	return errors.Join(errs...)
}

// Keep forgets the groups: the tree runs in them.
func (m *Made) Keep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirs = nil
}

// CheckNew tells why a group that is not there cannot be made; empty if it can.
// saved are the groups of the image.
func CheckNew(mounts []procfs.Mount, g *taskpb.Cgroup, saved map[Key]*taskpb.CgroupDirectory) string {
	if saved[KeyOf(g)] == nil {
		return "the image does not tell what it was like"
	}
	for _, above := range slices.Backward(Lineage(g)) {
		dir, text := Dir(mounts, above)
		if text != "" {
			return text
		}
		parent := filepath.Dir(dir)
		if _, err := os.Stat(parent); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := unix.Access(parent, unix.W_OK); err != nil {
			return fmt.Sprintf("%s: %v", parent, err)
		}
		return disabled(parent, saved[KeyOf(above)])
	}
	return ""
}

// disabled names the controllers that a new group below a directory needs and
// will not have.
func disabled(parent string, d *taskpb.CgroupDirectory) string {
	b, err := os.ReadFile(filepath.Join(parent, subtreeFile))
	if err != nil || d == nil {
		return "" // cgroup v1, where every group has every controller
	}
	enabled := strings.Fields(string(b))
	var lacks []string
	for _, p := range d.GetProperties() {
		controller, _, _ := strings.Cut(p.GetName(), ".")
		if p.Value != nil && controller != "cgroup" && !slices.Contains(enabled, controller) && !slices.Contains(lacks, controller) {
			lacks = append(lacks, controller)
		}
	}
	if len(lacks) == 0 {
		return ""
	}
	return fmt.Sprintf("controllers are not enabled: echo +%s > %s", strings.Join(lacks, " +"), filepath.Join(parent, subtreeFile))
}

// Valid checks what Create hands to the kernel.
func Valid(d *taskpb.CgroupDirectory) error {
	bad := func(p *taskpb.CgroupProperty) bool {
		return p.GetName() == "" || strings.ContainsAny(p.GetName(), "/\x00") || len(p.GetValue()) > maxProperty
	}
	if d.GetGroup() == nil || slices.ContainsFunc(d.GetProperties(), bad) {
		return fmt.Errorf("cgroup %s: %w", d.GetGroup().GetPath(), sdk.ErrCorrupt)
	}
	return nil
}
