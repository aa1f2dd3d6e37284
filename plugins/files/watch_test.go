package files

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func inotify(t *testing.T) int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func addWatch(t *testing.T, fd int, path string, mask uint32) int {
	t.Helper()
	wd, err := unix.InotifyAddWatch(fd, path, mask)
	if err != nil {
		t.Fatalf("watch %s: %v", path, err)
	}
	return wd
}

// event reads one event: its watch, mask and name.
func event(t *testing.T, fd int) (wd int32, mask uint32, name string) {
	t.Helper()
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil {
		t.Fatalf("read events: %v", err)
	}
	e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
	if n != unix.SizeofInotifyEvent+int(e.Len) {
		t.Errorf("%d bytes of events, want one event", n)
	}
	return e.Wd, e.Mask, strings.TrimRight(string(b[unix.SizeofInotifyEvent:n]), "\x00")
}

func TestInotify(t *testing.T) {
	dir := t.TempDir()
	file, link, gone := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "gone")
	write(t, file, "x")
	write(t, gone, "y")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	fd, idle := inotify(t), inotify(t)
	removed := addWatch(t, fd, file, unix.IN_MODIFY)
	addWatch(t, fd, dir, unix.IN_CREATE|unix.IN_OPEN|unix.IN_EXCL_UNLINK)
	if _, err := unix.InotifyRmWatch(fd, uint32(removed)); err != nil {
		t.Fatal(err)
	}
	addWatch(t, fd, file, unix.IN_CLOSE_WRITE|unix.IN_ONESHOT)
	addWatch(t, fd, link, unix.IN_ATTRIB|unix.IN_DONT_FOLLOW)
	ghost := open(t, gone, unix.O_RDWR)
	addWatch(t, fd, gone, unix.IN_MODIFY)
	addWatch(t, fd, "/dev/shm", unix.IN_MOVED_TO)
	os.Remove(gone)
	if b := sdktest.Blockers(fdtest.Check(t, New(), nil, fd, ghost).Findings); len(b) != 1 || !strings.Contains(b[0], "bytes of events have not been read") {
		t.Errorf("findings with unread events: %q", b)
	}
	for unread(t, fd) > 0 { // the end of the removed watch, and what was opened
		unix.Read(fd, make([]byte, 4096))
	}
	want := fdinfoOf(t, fd).Inotify
	trip := fdtest.Dump(t, New(), nil, fd, idle, ghost)
	if n := unread(t, fd); n != 0 {
		t.Errorf("the dump itself is %d bytes of events", n)
	}
	trip.Restore()
	if n := unread(t, fd); n != 0 {
		t.Errorf("the restore itself is %d bytes of events", n)
	}
	got := fdinfoOf(t, fd).Inotify
	byNumber := map[int32]procfs.InotifyWatch{}
	for _, w := range got {
		byNumber[w.WD] = w
	}
	for _, w := range want {
		if now := byNumber[w.WD]; w.Ino != now.Ino && w.WD != 5 || w.Mask != now.Mask { // the ghost is another inode
			t.Errorf("watch %+v, was %+v", now, w)
		}
	}
	if len(got) != len(want) || len(got) != 5 {
		t.Errorf("%d watches, want %d", len(got), len(want))
	}
	mustWrite(t, ghost, "changed")
	if wd, mask, _ := event(t, fd); wd != 5 || mask != unix.IN_MODIFY {
		t.Errorf("watch %d, mask %#x", wd, mask)
	}
	if err := os.Mkdir(filepath.Join(dir, "new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if wd, mask, name := event(t, fd); wd != 2 || mask != unix.IN_CREATE|unix.IN_ISDIR || name != "new" {
		t.Errorf("watch %d, mask %#x, name %q", wd, mask, name)
	}
	if err := unix.Lchown(link, 0, 0); err != nil {
		t.Fatal(err)
	}
	if wd, mask, _ := event(t, fd); wd != 4 || mask != unix.IN_ATTRIB {
		t.Errorf("watch %d, mask %#x", wd, mask)
	}
	if wd := addWatch(t, fd, "/", unix.IN_CREATE); wd != 7 {
		t.Errorf("a new watch is %d, want 7", wd)
	}
}

func unread(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestInotifyMissing: what is watched must be there at the restore.
func TestInotifyMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "x")
	fd := inotify(t)
	addWatch(t, fd, path, unix.IN_MODIFY)
	trip := fdtest.Dump(t, New(), nil, fd)
	unix.Close(fd)
	os.Remove(path)
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 1 || !strings.Contains(b[0], "watches "+path+", which does not exist") {
		t.Errorf("findings %q", b)
	}
	os.Mkdir(path, 0o700)
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 1 || !strings.Contains(b[0], "is a directory and was a regular file") {
		t.Errorf("findings %q", b)
	}
}

// TestKnownNames: on a file system without handles the names that the program
// itself uses are tried.
func TestKnownNames(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	write(t, path, "x")
	fd := open(t, dir, unix.O_RDONLY)
	defer unix.Close(fd)
	s := &survey{sess: &sdk.Session{Tree: sdktest.Tree(os.Getpid())}, items: []item{{res: new(fdtest.Resource(t, fd))}}}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	w, err := s.findWatched(watchKey{dev: st.Dev, ino: st.Ino})
	if err != nil || string(w.GetPath()) != path {
		t.Errorf("found %q, %v", w.GetPath(), err)
	}
	if w, err := s.findWatched(watchKey{dev: st.Dev, ino: 1}); w != nil || err != nil {
		t.Errorf("found %v, %v", w, err)
	}
}

func TestFanotify(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "x")
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_QUEUE, unix.O_RDONLY|unix.O_LARGEFILE)
	if err != nil {
		t.Fatal(err)
	}
	mark := func(flags uint, mask uint64, path string) {
		t.Helper()
		if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|flags, mask, unix.AT_FDCWD, path); err != nil {
			t.Fatal(err)
		}
	}
	mark(0, unix.FAN_MODIFY|unix.FAN_CLOSE_WRITE, file)
	mark(unix.FAN_MARK_IGNORED_MASK|unix.FAN_MARK_IGNORED_SURV_MODIFY, unix.FAN_CLOSE_WRITE, file)
	mark(unix.FAN_MARK_MOUNT, unix.FAN_CLOSE_WRITE, "/dev/shm")
	mark(unix.FAN_MARK_FILESYSTEM, unix.FAN_CLOSE_WRITE, "/dev/shm")
	want, flags := fdinfoOf(t, fd).Fanotify, fdtest.Flags(t, fd)
	fdtest.Dump(t, New(), nil, fd).Restore()
	if got := fdinfoOf(t, fd).Fanotify; !reflect.DeepEqual(got, want) || len(got.Marks) != 3 {
		t.Errorf("group %+v, was %+v", got, want)
	}
	if got := fdtest.Flags(t, fd); got != flags {
		t.Errorf("flags %#o, want %#o", got, flags)
	}
	write(t, file, "more")
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil || n != int(unsafe.Sizeof(unix.FanotifyEventMetadata{})) {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	e := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&b[0]))
	defer unix.Close(int(e.Fd))
	if e.Mask != unix.FAN_MODIFY || int(e.Pid) != os.Getpid() {
		t.Errorf("event %+v", e)
	}
}

func TestFanotifyPermission(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
	gate.Feature(t, "fanotify permission events", err == nil)
	defer unix.Close(fd)
	blocked(t, fd, "groups that are asked for permission are not carried")
}
