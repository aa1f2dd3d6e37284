package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

// What a plugin is never changes as long as its file does not. It is remembered
// in the runtime directory, so that plugins of which nothing is wanted need not
// be started to find that out, which costs several milliseconds each, and the
// others need not be asked. The memory may be deleted at any time.

// Memory is what is remembered of plugins, by their names.
type Memory map[string]*remembered

type remembered struct {
	File fileIdentity
	Info *wire.Info
}

// fileIdentity changes whenever the content of a file may have changed.
type fileIdentity struct {
	Path         string
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64 // ns
}

func identify(path string) (fileIdentity, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileIdentity{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return identityOf(path, &st), nil
}

func identifyFile(path string, f *os.File) (fileIdentity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileIdentity{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return identityOf(path, &st), nil
}

func identityOf(path string, st *unix.Stat_t) fileIdentity {
	return fileIdentity{path, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// memoryDir is the directory of the memory, which only this user can write to;
// "" if there is no place for one.
func memoryDir(base string) string {
	if base == "" {
		base = runtimeBases()[0]
	}
	if base == os.TempDir() {
		return "" // others could put something there
	}
	return filepath.Join(base, "firn", "plugins")
}

// Recall returns what is remembered of plugins whose files have not changed
// since. runtimeDir is as in [Options].
func Recall(bins []Binary, runtimeDir string) Memory {
	m := Memory{}
	dir := memoryDir(runtimeDir)
	if dir == "" || checkDirs(dir, dir) != nil {
		return m
	}
	for _, b := range bins {
		if r, err := recall(filepath.Join(dir, b.Name), b); err == nil {
			m[b.Name] = r
		}
	}
	return m
}

// Descriptions returns those of the plugins, without the messages of records.
// It reports false unless all are known.
func (m Memory) Descriptions(bins []Binary) ([]sdk.Description, bool) {
	out := make([]sdk.Description, len(bins))
	for i, b := range bins {
		r := m[b.Name]
		if r == nil {
			return nil, false
		}
		out[i] = r.Info.Description
	}
	return out, true
}

func recall(path string, b Binary) (*remembered, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &remembered{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, err
	}
	now, err := identify(b.Path)
	if err != nil {
		return nil, err
	}
	if now != r.File {
		return nil, errors.New("the plugin has changed")
	}
	if r.Info == nil || r.Info.Name != b.Name || r.Info.APIVersion != sdk.APIVersion {
		return nil, errors.New("written by another version of firn")
	}
	return r, nil
}

// remember remembers the plugins of a set. Whatever goes wrong costs time only.
func (s *Set) remember(opt Options) {
	dir := memoryDir(opt.RuntimeDir)
	if dir == "" {
		return
	}
	for _, p := range s.plugins {
		if r := opt.Memory[p.Name()]; r != nil && r.File == p.file {
			continue
		}
		if err := p.remember(dir); err != nil {
			s.log.Debug("the plugin is not remembered", "plugin", p.Name(), "error", err)
		}
	}
}

func (p *Plugin) remember(dir string) error {
	// Only if the file was the same before the start and after it.
	if now, err := identify(p.Path()); err != nil || now != p.file {
		return errors.Join(err, errors.New("the file is being changed"))
	}
	text, err := json.Marshal(remembered{p.file, p.info})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+p.Name())
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, p.Name()))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// Add starts further plugins and adds them to the set, which nobody may be
// using meanwhile. It returns the new ones.
func (s *Set) Add(ctx context.Context, bins []Binary, opt Options) ([]*Plugin, error) {
	more, err := Start(ctx, bins, opt)
	if err != nil {
		return nil, err
	}
	s.plugins = append(s.plugins, more.plugins...)
	return more.Plugins(), s.index()
}
