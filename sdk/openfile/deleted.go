package openfile

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// InDirectory calls f while a directory exists: what is missing of its path is
// made for the time of the call and removed again. So a file that had a name
// there can be made and deleted once more.
func InDirectory(dir string, f func() error) (err error) {
	missing, err := missingDirectories(dir)
	if err != nil {
		return err
	}
	var made []string
	defer func() {
		for i := len(made) - 1; i >= 0; i-- {
			if rerr := unix.Rmdir(made[i]); rerr != nil {
				err = errors.Join(err, fmt.Errorf("remove directory %s: %w", made[i], rerr))
			}
		}
	}()
	for _, d := range missing {
		if err := unix.Mkdir(d, 0o700); err != nil {
			return fmt.Errorf("make directory %s: %w", d, err)
		}
		made = append(made, d)
	}
	return f()
}

// missingDirectories lists what is missing of a path, the uppermost first.
func missingDirectories(dir string) (missing []string, err error) {
	for d := dir; ; d = filepath.Dir(d) {
		var st unix.Stat_t
		err := unix.Stat(d, &st)
		if err == nil {
			return missing, nil
		}
		if !errors.Is(err, unix.ENOENT) || d == filepath.Dir(d) {
			return nil, fmt.Errorf("directory %s: %w", d, err)
		}
		missing = append([]string{d}, missing...)
	}
}

// WritableDirectory tells whether [InDirectory] and f could make files there.
func WritableDirectory(dir string) error {
	missing, err := missingDirectories(dir)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		dir = filepath.Dir(missing[0])
	}
	return unix.Access(dir, unix.W_OK|unix.X_OK)
}

// Directory is a directory that was deleted while somebody used it.
type Directory struct {
	// Path is the last path, without what the kernel appends to it.
	Path           string
	Mode, UID, GID uint32
}

// Make makes the directory, opens it with O_PATH and deletes it again. If there
// is a directory of its name again it gets another one.
func (d *Directory) Make() (fd int, err error) {
	path := filepath.Clean(d.Path)
	fd = -1
	err = InDirectory(filepath.Dir(path), func() error {
		made := path
		err := unix.Mkdir(made, 0o700)
		for i := 0; errors.Is(err, unix.EEXIST) && i < 100; i++ {
			made = fmt.Sprintf("%s.firn-%d", path, i)
			err = unix.Mkdir(made, 0o700)
		}
		if err != nil {
			return fmt.Errorf("make directory %s: %w", made, err)
		}
		if fd, err = unix.Open(made, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
			err = unix.Chown(made, int(d.UID), int(d.GID))
		}
		if err == nil {
			err = unix.Chmod(made, d.Mode&0o7777)
		}
		return errors.Join(err, unix.Rmdir(made))
	})
	if err != nil && fd >= 0 {
		unix.Close(fd)
		fd = -1
	}
	return fd, err
}
