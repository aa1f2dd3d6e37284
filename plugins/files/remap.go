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
	"github.com/firn-cr/firn/sdk/openfile"
)

// remapOption allows a checkpoint to give a name to a file that lost the one by
// which it was opened and has others, which nobody knows.
const remapOption = "link-remap"

// examineLinked handles a file whose path was deleted although it has another
// name. Its content is not the program's alone: it has to be the same file after
// the restore, so another name must be known.
func (s *survey) examineLinked(it *item, fd int, msg *filespb.Named, g *filespb.Ghost) error {
	path := string(g.Path)
	msg.Path = g.Path
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, statxMask, &st); err != nil {
		return fmt.Errorf("statx: %w", err)
	}
	msg.Identity = identity(&st)
	if name := s.otherName(it, filepath.Dir(path)); name != "" {
		msg.Link = []byte(name)
		it.msg = msg
		return nil
	}
	if !s.sess.Enabled(remapOption) {
		s.report.Add(it.res, sdk.LevelFlag, path+" (deleted): the file has another name, which is not known",
			"--"+remapOption+": give it one more in its directory until the restore")
		return nil
	}
	msg.Link = fmt.Appendf(nil, "%s/.firn-link-%d-%d", filepath.Dir(path), st.Ino, it.res.Object)
	msg.Remapped = true
	it.msg = msg
	return nil
}

// otherName looks for another name of a file where programs that replace files
// keep the old one: in the same directory, and among those that the program
// itself uses.
func (s *survey) otherName(it *item, dir string) string {
	key := watchKey{dev: it.file().Dev, ino: it.file().Ino}
	paths := s.knownNames()
	for _, e := range entries(dir) {
		paths = append(paths, filepath.Join(dir, e))
	}
	for _, path := range paths {
		if watchedAt(path, key) != nil {
			return path
		}
	}
	return ""
}

// dumpRemaps makes the names that were announced.
func (p *plugin) dumpRemaps(ctx context.Context, s *survey) error {
	p.traces.begin()
	for i := range s.items {
		it := &s.items[i]
		n, ok := it.msg.(*filespb.Named)
		if !ok || !n.GetRemapped() {
			continue
		}
		if err := p.remap(ctx, s, it, string(n.GetLink())); err != nil {
			return fmt.Errorf("dump %s of task %d: %w", it.file().Link, it.res.Task, err)
		}
	}
	return nil
}

func (p *plugin) remap(ctx context.Context, s *survey, it *item, name string) error {
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = p.traces.leave(ctx, func() error {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	}, func() error { return unlink(name) })
	if err != nil {
		return fmt.Errorf("link as %s: %w", name, err)
	}
	return nil
}

// openLinked opens a file by its other name. It gets its old path back for that
// moment, if that is free: /proc/PID/fd shows it.
func openLinked(n *filespb.Named, flags uint32) (fd int, err error) {
	path, link := string(n.GetPath()), string(n.GetLink())
	fd = -1
	err = openfile.InDirectory(filepath.Dir(path), func() error {
		err := unix.Linkat(unix.AT_FDCWD, link, unix.AT_FDCWD, path, 0)
		if err != nil {
			return err
		}
		fd, err = reopen(path, flags)
		return errors.Join(err, unix.Unlink(path))
	})
	switch {
	case err == nil:
		return fd, nil
	case fd >= 0:
		unix.Close(fd)
		return -1, err
	case errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS):
		return reopen(link, flags)
	}
	return -1, err
}

// Resumed implements [sdk.Resumer]: it removes the names that the checkpoint
// made, and the files that carried ones have replaced. The tree runs; until here
// a restore could have failed and be repeated. Whoever has a terminal of another
// size is told.
func (p *plugin) Resumed(_ context.Context, req *sdk.RestoreRequest) error {
	im, err := readImage(req.Records)
	if err != nil {
		return err
	}
	var names []string
	for _, n := range im.named {
		if n.msg.GetRemapped() && !slices.Contains(names, string(n.msg.GetLink())) {
			names = append(names, string(n.msg.GetLink()))
		}
	}
	resized := p.tellSize(req)
	p.mu.Lock()
	defer p.mu.Unlock()
	errs := []error{resized}
	for _, name := range names {
		errs = append(errs, unlink(name))
	}
	for _, c := range p.carried {
		errs = append(errs, c.done())
	}
	p.carried = nil
	p.traces.begin() // the rest stays
	return errors.Join(errs...)
}
