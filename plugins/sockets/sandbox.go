package sockets

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// sandbox is a directory of its own in which sockets are bound to paths that
// need not, or must not, exist outside: of connections, and of files that were
// removed. A thread that has it as root binds any path there.
type sandbox struct{ dir string }

// close removes the directory with everything in it.
func (s *sandbox) close() error {
	if s.dir == "" {
		return nil
	}
	dir := s.dir
	s.dir = ""
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	return nil
}

// run calls f where name, a path, can be bound: on a thread whose root is a
// new directory, deep enough for the ".." of a relative name.
func (s *sandbox) run(name string, f func() error) error {
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "firn-sockets-")
		if err != nil {
			return fmt.Errorf("make sandbox: %w", err)
		}
		s.dir = dir
	}
	root, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		return fmt.Errorf("make sandbox: %w", err)
	}
	work := strings.Repeat("/d", strings.Count(name, "..")+1)
	return inRoot(root, func() error {
		if err := os.MkdirAll(work, 0o700); err != nil {
			return fmt.Errorf("sandbox: %w", err)
		}
		if err := unix.Chdir(work); err != nil {
			return fmt.Errorf("sandbox: chdir: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return fmt.Errorf("sandbox: %w", err)
		}
		return f()
	})
}

// inRoot calls f on a thread of its own with this root directory.
func inRoot(root string, f func() error) error {
	return onThread(func() error {
		if err := unix.Chroot(root); err != nil {
			return fmt.Errorf("chroot to %s: %w", root, err)
		}
		if err := unix.Chdir("/"); err != nil {
			return fmt.Errorf("chdir: %w", err)
		}
		return f()
	})
}

// inDir calls f on a thread of its own with this working directory.
func inDir(dir string, f func() error) error {
	return onThread(func() error {
		if err := unix.Chdir(dir); err != nil {
			return fmt.Errorf("chdir to %s: %w", dir, err)
		}
		return f()
	})
}

// onThread calls f on a thread that shares neither root nor working directory
// with the others, and that is thrown away. It is never the main thread, which
// cannot be, and whose root is what /proc/self shows.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// Kept until the other thread has done it, so that it is another.
			err := onThread(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("unshare root and working directory: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// openNode opens a socket's file without connecting to it, so that it can be
// named as /proc/self/fd/N: also where its path is too long, or in a sandbox.
func openNode(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// nodeName is the name to connect to an open node by.
func nodeName(node int) []byte { return fmt.Appendf(nil, "/proc/self/fd/%d", node) }

// removeStale removes the file that a socket left behind.
func removeStale(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("%s is no socket: %w", path, unix.EEXIST)
	}
	if err := unix.Unlink(path); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
