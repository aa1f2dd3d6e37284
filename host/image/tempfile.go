package image

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// fileMode of images: an image holds the memory of the tree.
const fileMode = 0o600

// tempFile is a file that is not yet at its place. Where the file system can
// (O_TMPFILE, Linux 3.11) it has no name, so that nothing stays when the
// process is killed; elsewhere it has a random name beside the target.
type tempFile struct {
	f    *os.File
	dir  *os.File // of the target
	base string   // the target's name in dir
	name string   // in dir; empty while the file has no name
}

// createTemp makes a temporary file that can be published as path. An existing
// path must be a regular file or a link to one.
func createTemp(path string) (*tempFile, error) {
	path, err := target(path)
	if err != nil {
		return nil, err
	}
	dir, err := os.OpenFile(filepath.Dir(path), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	t := &tempFile{dir: dir, base: filepath.Base(path)}
	if err := t.open(); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return t, nil
}

// target resolves symbolic links, so that the file that is replaced is the one
// that path refers to, and refuses what is not a file.
func target(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	if err != nil {
		return "", err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", err
		}
		if info, err = os.Stat(path); err != nil {
			return "", err
		}
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s exists and is not a regular file", path)
	}
	return path, nil
}

func (t *tempFile) open() error {
	if t.openUnnamed() == nil {
		return nil
	}
	return t.openNamed()
}

// openUnnamed makes a file without a name, if it can get one later.
func (t *tempFile) openUnnamed() error {
	fd, err := openat(int(t.dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR)
	if err != nil {
		return err
	}
	t.f = os.NewFile(uintptr(fd), t.base)
	if _, err := os.Stat(t.procPath()); err != nil { // no /proc
		return errors.Join(err, t.f.Close())
	}
	return nil
}

// openNamed makes a file with a random name.
func (t *tempFile) openNamed() error {
	const attempts = 100
	var err error
	for range attempts {
		name := t.randomName()
		var fd int
		fd, err = openat(int(t.dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW)
		if err == nil {
			t.f, t.name = os.NewFile(uintptr(fd), name), name
			return nil
		}
		if !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	return &fs.PathError{Op: "create temporary file in", Path: t.dir.Name(), Err: err}
}

func openat(dirfd int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC|unix.O_LARGEFILE, fileMode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

func (t *tempFile) procPath() string {
	return "/proc/self/fd/" + strconv.Itoa(int(t.f.Fd()))
}

func (t *tempFile) randomName() string {
	base := t.base
	if len(base) > 200 { // NAME_MAX is 255
		base = base[:200]
	}
	return "." + base + "." + rand.Text() + ".tmp"
}

// publish puts the file at its place in one step: whoever opens the target
// sees the old file or the whole new one. The tempFile is closed.
func (t *tempFile) publish(sync bool) error {
	dirfd := int(t.dir.Fd())
	if t.name == "" {
		err := unix.Linkat(unix.AT_FDCWD, t.procPath(), dirfd, t.base, unix.AT_SYMLINK_FOLLOW)
		if err == nil {
			return t.finish(sync)
		}
		if !errors.Is(err, unix.EEXIST) {
			return &os.LinkError{Op: "link", Old: "temporary file", New: t.path(), Err: err}
		}
		// linkat does not replace: give it a name of its own first. A process
		// that is killed between the two leaves a whole image by that name.
		name := t.randomName()
		if err := unix.Linkat(unix.AT_FDCWD, t.procPath(), dirfd, name, unix.AT_SYMLINK_FOLLOW); err != nil {
			return &os.LinkError{Op: "link", Old: "temporary file", New: name, Err: err}
		}
		t.name = name
	}
	if err := unix.Renameat(dirfd, t.name, dirfd, t.base); err != nil {
		return &os.LinkError{Op: "rename", Old: t.name, New: t.path(), Err: err}
	}
	t.name = ""
	return t.finish(sync)
}

func (t *tempFile) path() string { return filepath.Join(t.dir.Name(), t.base) }

// finish makes the name durable and closes.
func (t *tempFile) finish(sync bool) error {
	var err error
	if sync {
		if err = t.dir.Sync(); err != nil {
			err = fmt.Errorf("sync directory: %w", err)
		}
	}
	return errors.Join(err, t.f.Close(), t.dir.Close())
}

// discard removes the file and closes. Calls after the first or after a
// publish that worked do nothing.
func (t *tempFile) discard() error {
	var err error
	if t.name != "" {
		if err = unix.Unlinkat(int(t.dir.Fd()), t.name, 0); err != nil {
			err = &fs.PathError{Op: "remove", Path: filepath.Join(t.dir.Name(), t.name), Err: err}
		}
		t.name = ""
	}
	for _, f := range []*os.File{t.f, t.dir} {
		if cerr := f.Close(); cerr != nil && !errors.Is(cerr, fs.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	return err
}
