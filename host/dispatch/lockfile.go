package dispatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
)

// LockFile is the file in a directory of plugins that says what was added there,
// by "firn plugin add". A plugin that is in it is executed only if it is the
// file that was added.
const LockFile = "firn-plugins.lock"

// Locked is the entry of a plugin.
type Locked struct {
	SHA256  string    `json:"sha256"`
	Version string    `json:"version"`
	Owner   uint32    `json:"owner"` // user ID
	Added   time.Time `json:"added"`
	Source  string    `json:"source"` // the file that was added
	// Claims and Capabilities are those that the plugin told when it was added.
	Claims       []string `json:"claims"`
	Capabilities []string `json:"capabilities,omitempty"`
}

// lockVersion is the version of the lock file's format.
const lockVersion = 1

type lockContent struct {
	Version int                `json:"lock_version"`
	Plugins map[string]*Locked `json:"plugins"`
}

// ReadLock reads what was added to a directory, by the plugins' names. A
// directory without a lock file has nothing. The file must be trusted as a plugin
// must.
func ReadLock(dir string) (map[string]*Locked, error) {
	path := filepath.Join(dir, LockFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]*Locked{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock file of plugins: %w: %w", err, failure.ErrPlugin)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("lock file of plugins: stat %s: %w", path, err)
	}
	if reason := untrusted(&st); reason != "" {
		return nil, &RefusedError{Path: path, Culprit: path, Reason: reason}
	}
	var c lockContent
	if err := json.NewDecoder(f).Decode(&c); err != nil {
		return nil, fmt.Errorf("lock file of plugins: %s: %w: %w", path, err, failure.ErrPlugin)
	}
	if c.Version != lockVersion {
		return nil, fmt.Errorf("lock file of plugins: %s has version %d, want %d: %w", path, c.Version, lockVersion, failure.ErrPlugin)
	}
	if c.Plugins == nil {
		c.Plugins = map[string]*Locked{}
	}
	return c.Plugins, nil
}

// WriteLock replaces the lock file of a directory, in one step, or removes it if
// nothing is left in it.
func WriteLock(dir string, plugins map[string]*Locked) error {
	if len(plugins) == 0 {
		if err := os.Remove(filepath.Join(dir, LockFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.MarshalIndent(lockContent{lockVersion, plugins}, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(dir, LockFile, 0o644, func(f *os.File) error {
		_, err := f.Write(append(text, '\n'))
		return err
	})
}

// Install puts a copy of an executable into a directory of plugins, in one step.
// It is the file that is open, whatever its path leads to by now.
func Install(from *os.File, dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := checkDirs(filepath.Join(dir, Prefix+name), dir); err != nil {
		return err
	}
	return replaceFile(dir, Prefix+name, 0o755, func(f *os.File) error {
		return copyFile(f, from)
	})
}

// replaceFile writes a file beside the one that it replaces, and renames it.
func replaceFile(dir, name string, mode fs.FileMode, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(dir, "."+name+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}
