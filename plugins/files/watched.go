package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// watchKey is an inode as fdinfo of inotify and fanotify names it.
type watchKey struct {
	dev, ino uint64
	handle   procfs.FileHandle
}

// findWatched looks for the inode of a watch: by its handle, which leads to any
// inode whose file system has handles, or among the names that are known. It
// returns nil if it was not found.
func (s *survey) findWatched(k watchKey) (*filespb.Watched, error) {
	for i := range s.items {
		// The device of the superblock is not st_dev on btrfs, whose inodes
		// have handles.
		if f := s.items[i].file(); f.Ino == k.ino && f.Dev == k.dev && strings.HasSuffix(f.Link, deletedSuffix) {
			if w := s.watchedGhost(fileKey{f.Dev, f.Ino}); w != nil {
				return w, nil
			}
		}
	}
	mounts, err := s.mounts.all()
	if err != nil {
		return nil, err
	}
	if len(k.handle.Handle) > 0 {
		for i := range mounts {
			if mounts[i].Dev != k.dev {
				continue
			}
			if w := openHandle(mounts[i].Point, k.handle); w != nil {
				return w, nil
			}
		}
	}
	for _, path := range s.knownNames() {
		if w := watchedAt(path, k); w != nil {
			return w, nil
		}
	}
	return nil, nil
}

// watchedGhost returns a file without a name that goes into the image.
func (s *survey) watchedGhost(k fileKey) *filespb.Watched {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.ghosts[k]; g != nil {
		return &filespb.Watched{Path: g.msg.Path, Mode: g.item.file().Mode, Ghost: g.item.res.Object}
	}
	return nil
}

// openHandle finds the name of an inode by its handle. Opening the mount point
// would be an event for those who watch it, so a thread goes there instead.
func openHandle(point string, h procfs.FileHandle) *filespb.Watched {
	found := make(chan *filespb.Watched)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its directory
		var w *filespb.Watched
		if unix.Unshare(unix.CLONE_FS) == nil && unix.Chdir(point) == nil {
			fd, err := unix.OpenByHandleAt(unix.AT_FDCWD, unix.NewFileHandle(h.Type, h.Handle), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
			if err == nil {
				w = nameOf(fd)
				unix.Close(fd)
			}
		}
		found <- w
	}()
	return <-found
}

// nameOf returns the path of a descriptor if it leads to its file.
func nameOf(fd int) *filespb.Watched {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil
	}
	var is, named unix.Stat_t
	if unix.Fstat(fd, &is) != nil || unix.Lstat(path, &named) != nil || is.Ino != named.Ino || is.Dev != named.Dev {
		return nil
	}
	return &filespb.Watched{Path: []byte(path), Mode: is.Mode}
}

// watchedAt tells whether a path leads to the inode.
func watchedAt(path string, k watchKey) *filespb.Watched {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil || st.Ino != k.ino || st.Dev != k.dev {
		return nil
	}
	return &filespb.Watched{Path: []byte(path), Mode: st.Mode}
}

// knownNames are paths that a program may watch: its open files, its current
// directories, and what is in these.
func (s *survey) knownNames() []string {
	s.namesOnce.Do(func() {
		seen := map[string]bool{}
		add := func(path string) {
			if strings.HasPrefix(path, "/") && !seen[path] {
				seen[path] = true
				s.names = append(s.names, path)
			}
		}
		var dirs []string
		for i := range s.sess.Tree.Processes {
			if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", s.sess.Tree.Processes[i].PID)); err == nil {
				dirs = append(dirs, cwd)
			}
		}
		for i := range s.items {
			f := s.items[i].file()
			add(f.Link)
			if f.Type == sdk.TypeDirectory {
				dirs = append(dirs, f.Link)
			} else if f.Type == sdk.TypeRegular {
				dirs = append(dirs, filepath.Dir(f.Link))
			}
		}
		for _, dir := range dirs {
			if seen[dir+"/"] {
				continue
			}
			seen[dir+"/"] = true
			add(dir)
			for _, e := range entries(dir) {
				add(filepath.Join(dir, e))
			}
		}
	})
	return s.names
}

// entries are the names in a directory. It is read without an event for those
// who watch it, as far as the kernel allows.
func entries(dir string) []string {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].Name()
	}
	return names
}

// openWatched opens what a watch is on, for its path in /proc/self/fd: that
// leads to the inode itself, also if it is a symbolic link. O_PATH is no event
// for those who watch it.
func (p *plugin) openWatched(w *filespb.Watched) (int, error) {
	if w.GetGhost() != 0 {
		fd, ok := p.made[w.GetGhost()]
		if !ok {
			return -1, fmt.Errorf("watched file %d without a name is not in the image: %w", w.GetGhost(), sdk.ErrCorrupt)
		}
		return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	fd, err := unix.Open(string(w.GetPath()), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", w.GetPath(), err)
	}
	return fd, nil
}

// checkWatched tells what keeps a watch from being set again.
func checkWatched(w *filespb.Watched) (level sdk.Level, text, help string) {
	if w.GetGhost() != 0 {
		return sdk.LevelOK, "", ""
	}
	var st unix.Stat_t
	err := unix.Lstat(string(w.GetPath()), &st)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return sdk.LevelBlock, fmt.Sprintf("watches %s, which does not exist", w.GetPath()), "put it back where it was at the checkpoint"
	case err != nil:
		return sdk.LevelBlock, fmt.Sprintf("watches %s: stat: %v", w.GetPath(), err), ""
	case st.Mode&unix.S_IFMT != w.GetMode()&unix.S_IFMT:
		return sdk.LevelBlock, fmt.Sprintf("watches %s, which is %s and was %s", w.GetPath(), typeName(st.Mode), typeName(w.GetMode())), ""
	}
	return sdk.LevelOK, "", ""
}
