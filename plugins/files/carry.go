package files

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

// carryOption names regular files whose content goes into the image.
const carryOption = "carry"

// examineCarried puts the content of a regular file into the image if that was
// asked for.
func (s *survey) examineCarried(it *item, msg *filespb.Named) error {
	f := it.file()
	if f.Type != sdk.TypeRegular || f.Flags&unix.O_PATH != 0 || msg.Pseudo || msg.Process != 0 {
		return nil
	}
	if !s.listed(carryOption, f.Link) {
		return nil
	}
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	g := &filespb.Ghost{Path: msg.Path, Carried: msg.Identity}
	msg.Identity = nil
	return s.addGhost(it, fd, &st, msg, g)
}

// listed tells whether a path is meant by one of the patterns of an option.
func (s *survey) listed(option, name string) bool {
	return slices.ContainsFunc(s.sess.OptionList(option), func(p string) bool { return matchPath(p, name) })
}

// noteUnused tells of patterns of an option that mean no open file.
func (s *survey) noteUnused(option string) {
	for _, pattern := range s.sess.OptionList(option) {
		if !slices.ContainsFunc(s.items, func(it item) bool { return it.file() != nil && matchPath(pattern, it.file().Link) }) {
			s.report.Note(&sdk.Resource{Task: s.sess.Tree.Root}, fmt.Sprintf("--%s %s: no such file is open", option, pattern))
		}
	}
}

// carriedFile is a file of the image that has another content on this machine
// by now, or is missing: it is made under a temporary name.
type carriedFile struct {
	path, temp string
	// placed tells that it has its name, exchanged that temp is the other file
	// now.
	placed, exchanged bool
}

// carriedSame tells whether the file is still what it was, and opens it then.
func carriedSame(m *filespb.Ghost) (fd int, same bool) {
	var st unix.Statx_t
	path := string(m.GetPath())
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, statxMask, &st)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, false
	}
	if level, _, _ := refuseChanged.compare(path, m.GetCarried(), identity(&st)); level != sdk.LevelOK {
		return -1, false
	}
	fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return fd, err == nil
}

// makeCarried makes a carried file beside its name, unless it is there
// unchanged.
func (r *restore) makeCarried(ctx context.Context, object uint64, g *ghostSet) error {
	if fd, same := carriedSame(g.msg); same {
		g.fd = fd
		return nil
	}
	c := &carriedFile{path: string(g.msg.GetPath())}
	c.temp = filepath.Join(filepath.Dir(c.path), fmt.Sprintf(".firn-carried-%d-%d", unix.Getpid(), object))
	const flags = unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	err := r.traces.leave(ctx, func() (err error) {
		g.fd, err = unix.Open(c.temp, flags, 0o600)
		return err
	}, c.undo)
	if err != nil {
		return fmt.Errorf("make: %w", err)
	}
	r.carried = append(r.carried, c)
	return fillGhost(g, r.req.Records)
}

// place gives a carried file its name. What has it is kept until the tree runs.
func (c *carriedFile) place() error {
	err := unix.Renameat2(unix.AT_FDCWD, c.temp, unix.AT_FDCWD, c.path, unix.RENAME_EXCHANGE)
	c.exchanged = err == nil
	if errors.Is(err, unix.ENOENT) {
		err = unix.Renameat2(unix.AT_FDCWD, c.temp, unix.AT_FDCWD, c.path, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return fmt.Errorf("put %s back: %w", c.path, err)
	}
	c.placed = true
	return nil
}

// undo makes the file as if there had been no restore.
func (c *carriedFile) undo() error {
	switch {
	case c.exchanged:
		if err := unix.Renameat2(unix.AT_FDCWD, c.temp, unix.AT_FDCWD, c.path, unix.RENAME_EXCHANGE); err != nil {
			return fmt.Errorf("put the other %s back: %w", c.path, err)
		}
	case c.placed:
		return unix.Unlink(c.path)
	}
	return unix.Unlink(c.temp)
}

// done removes the file that was there before.
func (c *carriedFile) done() error {
	if c.exchanged {
		return unix.Unlink(c.temp)
	}
	return nil
}

// checkCarried tells what keeps a carried file from being put back.
func checkCarried(m *filespb.Ghost) (level sdk.Level, text, help string) {
	if fd, same := carriedSame(m); same {
		unix.Close(fd)
		return sdk.LevelOK, "", ""
	}
	path := string(m.GetPath())
	if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
		return sdk.LevelBlock, fmt.Sprintf("%s: cannot be put back: %v", path, err), "make the directory " + filepath.Dir(path)
	}
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case errors.Is(err, unix.ENOENT):
		return sdk.LevelNote, path + ": is made again as it was at the checkpoint", ""
	case err != nil:
		return sdk.LevelBlock, fmt.Sprintf("%s: %v", path, err), ""
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return sdk.LevelBlock, fmt.Sprintf("%s: is %s, was a regular file", path, typeName(st.Mode)), ""
	}
	return sdk.LevelNote, path + ": is replaced by the file of the checkpoint", ""
}
