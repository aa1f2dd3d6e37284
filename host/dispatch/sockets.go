package dispatch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the length of sun_path without its final zero: unix(7).
const maxSocketPath = 107

// socketNameLen is what go-plugin and a plugin append to the directory:
// /plugin-dirNNNNNNNNNN/pluginNNNNNNNNNN.
const socketNameLen = 1 + len("plugin-dir") + 10 + 1 + len("plugin") + 10

// hostPrefix begins the names of the directories of hosts.
const hostPrefix = "host-"

// lockWait bounds the wait for another host that sweeps.
const lockWait = 5 * time.Second

// socketDir is the directory for the sockets of one start of plugins. It
// exists until every plugin is connected. A lock on it, which ends with the
// process, tells other hosts that it is in use.
type socketDir struct {
	path string
	lock *os.File
}

// runtimeBases are where the directories of sockets may be, in order.
func runtimeBases() []string {
	var out []string
	if os.Geteuid() == 0 {
		out = append(out, "/run")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		out = append(out, dir)
	}
	return append(out, os.TempDir())
}

// newSocketDir makes a directory of its own below base, or below the first of
// the usual places that works if base is empty, and removes what hosts that
// died left there.
func newSocketDir(base string) (*socketDir, error) {
	if base != "" {
		return socketDirIn(filepath.Join(base, "firn"))
	}
	var errs []error
	for _, b := range runtimeBases() {
		dir := filepath.Join(b, "firn")
		if b == os.TempDir() {
			dir += "-" + strconv.Itoa(os.Geteuid())
		}
		d, err := socketDirIn(dir)
		if err == nil {
			return d, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("directory for sockets: %w", errors.Join(errs...))
}

func socketDirIn(dir string) (*socketDir, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	// The lock on the common directory keeps a sweep from seeing a directory
	// that is not locked yet.
	common, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer common.Close()
	if err := flock(common, lockWait); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	sweep(dir)
	path, err := os.MkdirTemp(dir, hostPrefix)
	if err != nil {
		return nil, err
	}
	if n := len(path) + socketNameLen; n > maxSocketPath {
		return nil, errors.Join(fmt.Errorf("%s: paths of sockets would have %d bytes, the kernel takes %d", path, n, maxSocketPath), os.Remove(path))
	}
	lock, err := openDir(path)
	if err == nil {
		err = flock(lock, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), os.Remove(path))
	}
	return &socketDir{path: path, lock: lock}, nil
}

// openDir opens a directory that belongs to the caller alone.
func openDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, errors.Join(fmt.Errorf("%s belongs to user %d with mode %04o: others could put sockets there", path, st.Uid, st.Mode&0o7777), f.Close())
	}
	return f, nil
}

// flock takes an exclusive lock, and gives up when somebody else has it for
// longer than wait.
func flock(f *os.File, wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) && (!errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline)) {
			return err
		}
	}
}

// sweep removes the directories whose host is gone.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), hostPrefix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		f, err := openDir(path)
		if err != nil {
			continue
		}
		if flock(f, 0) == nil {
			_ = os.RemoveAll(path)
		}
		f.Close()
	}
}

// remove removes the directory with everything in it.
func (d *socketDir) remove() error {
	return errors.Join(os.RemoveAll(d.path), d.lock.Close())
}
