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
)

// What a plugin claims never changes as long as its file does not. It is
// remembered in the runtime directory, so that plugins of which nothing is
// wanted need not be started to find that out: starting one costs several
// milliseconds. The memory may be deleted at any time.

// claims is what is remembered of a plugin.
type claims struct {
	File    fileIdentity
	Claims  []sdk.Claim
	Attends []sdk.Claim
	After   []string
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
	return fileIdentity{path, st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil
}

// claimsDir is the directory of the memory, which only this user can write to;
// "" if there is no place for one.
func claimsDir(base string) string {
	if base == "" {
		base = runtimeBases()[0]
	}
	if base == os.TempDir() {
		return "" // others could put something there
	}
	return filepath.Join(base, "firn", "claims")
}

// KnownClaims returns what is remembered of plugins: descriptions with the name,
// the claims and the order only. It reports false unless all are known.
// runtimeDir is as in [Options].
func KnownClaims(bins []Binary, runtimeDir string) ([]sdk.Description, bool) {
	dir := claimsDir(runtimeDir)
	if dir == "" || checkDirs(dir, dir) != nil {
		return nil, false
	}
	out := make([]sdk.Description, len(bins))
	for i, b := range bins {
		c, err := readClaims(filepath.Join(dir, b.Name), b)
		if err != nil {
			return nil, false
		}
		out[i] = sdk.Description{Name: b.Name, Claims: c.Claims, Attends: c.Attends, After: c.After}
	}
	return out, true
}

func readClaims(path string, b Binary) (*claims, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &claims{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, err
	}
	now, err := identify(b.Path)
	if err != nil {
		return nil, err
	}
	if now != c.File {
		return nil, errors.New("the plugin has changed")
	}
	return c, nil
}

// rememberClaims remembers the plugins of a set. Whatever goes wrong costs time
// only.
func (s *Set) rememberClaims(runtimeDir string, before map[string]fileIdentity) {
	dir := claimsDir(runtimeDir)
	if dir == "" || os.MkdirAll(dir, 0o700) != nil {
		return
	}
	for _, p := range s.plugins {
		if err := p.rememberClaims(dir, before[p.Name()]); err != nil {
			s.log.Debug("claims are not remembered", "plugin", p.Name(), "error", err)
		}
	}
}

func (p *Plugin) rememberClaims(dir string, id fileIdentity) error {
	path := filepath.Join(dir, p.Name())
	if _, err := readClaims(path, p.binary); err == nil {
		return nil
	}
	// Only if the file was the same before the start and after it.
	if now, err := identify(p.Path()); err != nil || now != id {
		return errors.Join(err, errors.New("the file is being changed"))
	}
	d := p.Description()
	text, err := json.Marshal(claims{id, d.Claims, d.Attends, d.After})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+p.Name())
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
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
