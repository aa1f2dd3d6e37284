package files

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
)

// open opens a descriptor that the test owns until a [fdtest.Trip] takes it.
func open(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	return fd
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRegularFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a file\nwith (deleted)")
	write(t, path, "0123456789")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	rd := open(t, path, unix.O_RDONLY)
	wr := open(t, path, unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK)
	rw := open(t, path, unix.O_RDWR|unix.O_DSYNC|unix.O_NOATIME)
	opath := open(t, path, unix.O_PATH)
	dirfd := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	linkfd := open(t, link, unix.O_PATH|unix.O_NOFOLLOW)
	unix.Seek(rd, 3, unix.SEEK_SET)
	unix.Seek(rw, 1<<40, unix.SEEK_SET)
	sock := socketFile(t, filepath.Join(dir, "sock"))
	fds := []int{rd, wr, rw, opath, dirfd, linkfd, sock}
	var want []int
	var names []string
	for _, fd := range fds {
		want = append(want, fdtest.Flags(t, fd))
		names = append(names, readlink(t, fd))
	}
	trip := fdtest.Dump(t, New(), nil, fds...)
	trip.Restore()
	for i, fd := range fds {
		if got := fdtest.Flags(t, fd); got != want[i] {
			t.Errorf("%s: flags %#o, want %#o", names[i], got, want[i])
		}
		if got := readlink(t, fd); got != names[i] {
			t.Errorf("leads to %q, want %q", got, names[i])
		}
	}
	if off, _ := unix.Seek(rw, 0, unix.SEEK_CUR); off != 1<<40 {
		t.Errorf("offset %d", off)
	}
	unix.Write(wr, []byte("abc"))
	buf := make([]byte, 20)
	if n, _ := unix.Read(rd, buf); string(buf[:n]) != "3456789abc" {
		t.Errorf("read %q", buf[:n])
	}
}

// socketFile opens the file of a socket with O_PATH.
func socketFile(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	return open(t, path, unix.O_PATH)
}

func readlink(t *testing.T, fd int) string {
	t.Helper()
	s, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDirectoryOffset(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), "")
	}
	fd := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	seen := map[string]bool{}
	buf := make([]byte, 1024)
	read := func() int {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if seen[name] {
				t.Errorf("%s seen twice", name)
			}
			seen[name] = true
		}
		return n
	}
	read()
	fdtest.Dump(t, New(), nil, fd).Restore()
	for n := 1; n > 0; {
		n = read()
	}
	if len(seen) != 300 {
		t.Errorf("saw %d of 300 names", len(seen))
	}
}

func TestProcFiles(t *testing.T) {
	status := open(t, "/proc/self/status", unix.O_RDONLY)
	uptime := open(t, "/proc/uptime", unix.O_RDONLY)
	fds := open(t, "/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY)
	want := readlink(t, status)
	fdtest.Dump(t, New(), nil, status, uptime, fds).Restore()
	if got := readlink(t, status); got != want {
		t.Errorf("leads to %s, want %s", got, want)
	}
	outside := open(t, fmt.Sprintf("/proc/%d/status", os.Getppid()), unix.O_RDONLY)
	defer unix.Close(outside)
	blocked(t, outside, "which is not a process of the tree")
}

// blocked tells that a check of one descriptor blocks with this text.
func blocked(t *testing.T, fd int, text string) {
	t.Helper()
	b := sdktest.Blockers(fdtest.Check(t, New(), nil, fd).Findings)
	if len(b) != 1 || !strings.Contains(b[0], text) || !strings.HasPrefix(b[0], fmt.Sprintf("fd %d: ", fd)) {
		t.Errorf("findings %q, want one about fd %d with %q", b, fd, text)
	}
}

func TestRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("x", path); err != nil {
		t.Fatal(err)
	}
	fd := open(t, path, unix.O_PATH|unix.O_NOFOLLOW)
	defer unix.Close(fd)
	os.Remove(path)
	blocked(t, fd, "only regular files and directories are carried without a name")
}

func TestCheckImageNamed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	put := func(content string) *filespb.Named {
		write(t, path, content)
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, path, 0, statxMask, &st); err != nil {
			t.Fatal(err)
		}
		return &filespb.Named{Path: []byte(path), Description: &filespb.Description{Flags: unix.O_RDWR}, Identity: identity(&st)}
	}
	for _, tt := range []struct {
		name   string
		change func()
		level  sdk.Level
		text   string
	}{
		{"same", func() {}, sdk.LevelOK, ""},
		{"grown", func() { write(t, path, "0123456789ab") }, sdk.LevelNote, "has grown from 10 to 12 bytes"},
		{"shrunk", func() { write(t, path, "012") }, sdk.LevelBlock, "has 3 bytes, had 10"},
		{"touched", func() { os.Chtimes(path, time.Time{}, time.Unix(7, 0)) }, sdk.LevelNote, "was modified at 1970-01-01T00:00:07Z"},
		{"removed", func() { os.Remove(path) }, sdk.LevelBlock, "does not exist"},
		{"replaced", func() {
			write(t, path+"x", "9876543210")
			os.Chtimes(path+"x", time.Time{}, time.Unix(7, 0))
			os.Rename(path+"x", path)
		}, sdk.LevelBlock, "is another file"},
		{"copied", func() {
			st, _ := os.Stat(path)
			write(t, path+"x", "0123456789")
			os.Chtimes(path+"x", time.Time{}, st.ModTime())
			os.Rename(path+"x", path)
		}, sdk.LevelOK, ""},
		{"directory", func() { os.Remove(path); os.Mkdir(path, 0o700) }, sdk.LevelBlock, "is a directory, was a regular file"},
	} {
		os.RemoveAll(path)
		n := put("0123456789")
		tt.change()
		level, text, _ := policies(nil).checkNamed(n)
		if level != tt.level || !strings.Contains(text, tt.text) {
			t.Errorf("%s: level %d, %q", tt.name, level, text)
		}
	}
}

func TestRestoreRefusesChangedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "0123456789")
	trip := fdtest.Dump(t, New(), nil, open(t, path, unix.O_RDONLY))
	write(t, path, "0")
	f := trip.CheckImage()
	if len(f) != 1 || f[0].Level != sdk.LevelBlock || f[0].Subject == "file" || f[0].Task == 0 {
		t.Errorf("findings %+v", f)
	}
	if err := trip.TryRestore(); err == nil || !strings.Contains(err.Error(), "has 1 bytes, had 10") {
		t.Errorf("restored: %v", err)
	}
}

func TestDevices(t *testing.T) {
	null := open(t, "/dev/null", unix.O_RDWR|unix.O_NONBLOCK)
	zero := open(t, "/dev/zero", unix.O_RDONLY)
	full := open(t, "/dev/full", unix.O_WRONLY)
	random := open(t, "/dev/urandom", unix.O_RDONLY)
	flags := fdtest.Flags(t, null)
	fdtest.Dump(t, New(), nil, null, zero, full, random).Restore()
	if got := fdtest.Flags(t, null); got != flags {
		t.Errorf("flags %#o, want %#o", got, flags)
	}
	if _, err := unix.Write(full, []byte("x")); err != unix.ENOSPC {
		t.Errorf("write to full: %v", err)
	}
	if n, err := unix.Read(random, make([]byte, 8)); n != 8 || err != nil {
		t.Errorf("read random: %d, %v", n, err)
	}
	kmsg := open(t, "/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK)
	defer unix.Close(kmsg)
	blocked(t, kmsg, "messages that the program has not read yet")
	fuse := open(t, "/dev/fuse", unix.O_RDWR)
	defer unix.Close(fuse)
	blocked(t, fuse, "device 10:229 is not carried")
}
