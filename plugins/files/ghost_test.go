package files

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// deleted makes a file with a hole between two runs of data, opens it and
// removes it.
func deleted(t *testing.T, path string) int {
	t.Helper()
	fd := open(t, path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
	for off, text := range map[int64]string{0: "head", 300 << 10: "tail"} {
		if _, err := unix.Pwrite(fd, []byte(text), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return fd
}

func content(t *testing.T, fd int) []byte {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, st.Size)
	if n, err := unix.Pread(fd, b, 0); err != nil || n != len(b) {
		t.Fatalf("read %d of %d bytes: %v", n, len(b), err)
	}
	return b
}

func TestDeletedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deleted")
	fd := deleted(t, path)
	again := open(t, fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_APPEND)
	unix.Seek(fd, 300<<10+2, unix.SEEK_SET)
	if err := unix.Fchmod(fd, 0o4751); err != nil {
		t.Fatal(err)
	}
	attribute := unix.Fsetxattr(fd, "user.firn", []byte("kept"), 0) == nil
	when := []unix.Timespec{{Sec: 1000}, {Sec: 2000, Nsec: 5}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), when, 0); err != nil {
		t.Fatal(err)
	}
	before, flags, name := content(t, fd), fdtest.Flags(t, again), readlink(t, fd)
	var old, now unix.Stat_t
	unix.Fstat(fd, &old)
	trip := fdtest.Dump(t, New(), nil, fd, again)
	trip.Restore()
	unix.Fstat(fd, &now)
	if now.Nlink != 0 || now.Mode != old.Mode || now.Uid != old.Uid || now.Size != old.Size || now.Mtim != old.Mtim || now.Blocks != old.Blocks {
		t.Errorf("stat %+v, was %+v", now, old)
	}
	if got := readlink(t, fd); got != name {
		t.Errorf("leads to %s, want %s", got, name)
	}
	if got := fdtest.Flags(t, again); got != flags {
		t.Errorf("flags %#o, want %#o", got, flags)
	}
	if !bytes.Equal(content(t, fd), before) {
		t.Error("content differs")
	}
	if attribute {
		b := make([]byte, 10)
		if n, err := unix.Fgetxattr(fd, "user.firn", b); err != nil || string(b[:n]) != "kept" {
			t.Errorf("attribute %q, %v", b[:max(n, 0)], err)
		}
	}
	mustWrite(t, fd, "XX") // at the old offset, seen through the other description
	if got := content(t, again); string(got[300<<10:]) != "taXX" {
		t.Errorf("tail %q", got[300<<10:])
	}
}

// TestDeletedNameTaken: the name belongs to a new file, which must stay.
func TestDeletedNameTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	fd := deleted(t, path)
	write(t, path, "the new file")
	fdtest.Dump(t, New(), nil, fd).Restore()
	if b, err := os.ReadFile(path); err != nil || string(b) != "the new file" {
		t.Errorf("the new file has %q, %v", b, err)
	}
	if got := content(t, fd); string(got[:4]) != "head" {
		t.Errorf("content %q", got[:4])
	}
}

func TestUnnamedFile(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	gate.Feature(t, "O_TMPFILE", !errors.Is(err, unix.EOPNOTSUPP))
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, fd, "unnamed")
	fdtest.Dump(t, New(), nil, fd).Restore()
	if got := string(content(t, fd)); got != "unnamed" {
		t.Errorf("content %q", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// It can still get a name, as before.
	linked := filepath.Join(dir, "linked")
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, linked, unix.AT_SYMLINK_FOLLOW); err != nil {
		t.Errorf("link: %v", err)
	}
}

func TestGhostLimit(t *testing.T) {
	fd := open(t, filepath.Join(t.TempDir(), "big"), unix.O_RDWR|unix.O_CREAT)
	defer unix.Close(fd)
	mustWrite(t, fd, strings.Repeat("x", 2<<20+5))
	os.Remove(strings.TrimSuffix(readlink(t, fd), deletedSuffix))
	f := fdtest.Check(t, New(), nil, fd).Findings
	if len(f) != 1 || f[0].Level != sdk.LevelFlag || !strings.HasPrefix(f[0].Help, "--ghost-limit 2") {
		t.Errorf("findings %+v", f)
	}
	for _, limit := range []string{"3M", "3145728", "1G"} {
		if b := sdktest.Blockers(fdtest.Check(t, New(), map[string]string{"ghost-limit": limit}, fd).Findings); len(b) != 0 {
			t.Errorf("%s: %q", limit, b)
		}
	}
	for _, limit := range []string{"", "x", "-1", "1T", "9999999999G"} {
		s := survey{sess: &sdk.Session{Options: map[string]string{ghostOption: limit}}}
		if n, err := s.ghostLimit(); err == nil {
			t.Errorf("%q: %d", limit, n)
		}
	}
	want := content(t, fd)
	fdtest.Dump(t, New(), map[string]string{"ghost-limit": "3M"}, fd).Restore()
	if !bytes.Equal(content(t, fd), want) {
		t.Error("content differs")
	}
}

func TestGhostRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	fd := deleted(t, filepath.Join(dir, "f"))
	c := startChild(t, "hold", "", fileOf(t, fd))
	blocked(t, fd, fmt.Sprintf("is also open in task %d", c.pid))
	other := deleted(t, filepath.Join(dir, "g"))
	trip := fdtest.Dump(t, New(), nil, other)
	os.RemoveAll(dir)
	write(t, dir, "in the way")
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 1 || !strings.Contains(b[0], "cannot be made in its directory") {
		t.Errorf("findings %q", b)
	}
	unix.Close(other)
	unix.Close(fd)
}

func TestMemoryFile(t *testing.T) {
	fd, err := unix.MemfdCreate("firn test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, 5<<20); err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("memory"), 1<<18) // more than one record
	if _, err := unix.Pwrite(fd, big, 2<<20); err != nil {
		t.Fatal(err)
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	plain, err := unix.MemfdCreate("", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY)
	names := []string{readlink(t, fd), readlink(t, plain)}
	unix.Seek(again, 2<<20, unix.SEEK_SET)
	fdtest.Dump(t, New(), nil, again, fd, plain).Restore()
	if got := []string{readlink(t, fd), readlink(t, plain)}; got[0] != names[0] || got[1] != names[1] {
		t.Errorf("names %q, want %q", got, names)
	}
	if got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); got&seals != seals || err != nil {
		t.Errorf("seals %#x, %v", got, err)
	}
	if got, err := unix.FcntlInt(uintptr(plain), unix.F_GET_SEALS, 0); got&unix.F_SEAL_SEAL == 0 || err != nil {
		t.Errorf("seals %#x, %v", got, err)
	}
	buf := make([]byte, len(big))
	if n, err := unix.Read(again, buf); err != nil || !bytes.Equal(buf[:n], big) {
		t.Errorf("read %d bytes: %v", n, err)
	}
	if got := content(t, fd); len(got) != 5<<20 {
		t.Errorf("size %d", len(got))
	}
}
