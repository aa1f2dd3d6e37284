package files

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
)

// TestDeletedWithLink: a file whose name was deleted but that has another one
// stays that file.
func TestDeletedWithLink(t *testing.T) {
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "f"), filepath.Join(dir, "f~")
	write(t, path, "content")
	fd := open(t, path, unix.O_RDWR)
	if err := os.Link(path, backup); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	want := readlink(t, fd)
	fdtest.Dump(t, New(), nil, fd).Restore()
	if got := readlink(t, fd); got != want {
		t.Errorf("leads to %s, want %s", got, want)
	}
	mustWrite(t, fd, "CONT")
	if b, err := os.ReadFile(backup); err != nil || string(b) != "CONTent" {
		t.Errorf("the other name shows %q, %v", b, err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the name is back")
	}
	// With the name taken by another file.
	write(t, path, "new")
	fdtest.Dump(t, New(), nil, fd).Restore()
	mustWrite(t, fd, "X")
	if b, err := os.ReadFile(backup); err != nil || string(b) != "CONTXnt" {
		t.Errorf("the other name shows %q, %v", b, err)
	}
}

func TestLinkRemap(t *testing.T) {
	top := t.TempDir()
	dir, elsewhere := filepath.Join(top, "dir"), filepath.Join(top, "else", "where")
	for _, d := range []string{dir, filepath.Dir(elsewhere)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "f")
	write(t, path, "content")
	fd := open(t, path, unix.O_RDWR)
	if err := os.Link(path, elsewhere); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	f := fdtest.Check(t, New(), nil, fd).Findings
	if len(f) != 1 || f[0].Level != sdk.LevelFlag || !strings.HasPrefix(f[0].Help, "--link-remap") {
		t.Errorf("findings %+v", f)
	}
	trip := fdtest.Dump(t, New(), map[string]string{remapOption: "true"}, fd)
	if left, _ := os.ReadDir(dir); len(left) != 1 || !strings.HasPrefix(left[0].Name(), ".firn-link-") {
		t.Errorf("after the dump: %v", left)
	}
	trip.Restore()
	mustWrite(t, fd, "CONT")
	if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "CONTent" {
		t.Errorf("the other name shows %q, %v", b, err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("after the restore: %v", left)
	}
}

// TestLinkRemapUndone: a checkpoint that fails leaves no name behind.
func TestLinkRemapUndone(t *testing.T) {
	dir := t.TempDir()
	path, elsewhere := filepath.Join(dir, "f"), filepath.Join(t.TempDir(), "f")
	write(t, path, "x")
	fd := open(t, path, unix.O_RDWR)
	defer unix.Close(fd)
	if err := os.Link(path, elsewhere); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	p := New().(*plugin)
	fdtest.Dump(t, p, map[string]string{remapOption: "true"}, fd)
	if err := p.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDeletedDirectory(t *testing.T) {
	top := t.TempDir()
	path := filepath.Join(top, "a", "b")
	if err := os.MkdirAll(path, 0o751); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(path, "f")
	write(t, file, "content")
	dir, again, node, inside := open(t, path, unix.O_RDONLY|unix.O_DIRECTORY), open(t, path, unix.O_RDONLY), open(t, path, unix.O_PATH), open(t, file, unix.O_RDWR)
	os.RemoveAll(filepath.Join(top, "a"))
	want := []string{readlink(t, dir), readlink(t, inside)}
	fdtest.Dump(t, New(), nil, dir, again, node, inside).Restore()
	if got := []string{readlink(t, dir), readlink(t, inside)}; got[0] != want[0] || got[1] != want[1] {
		t.Errorf("leads to %q, want %q", got, want)
	}
	var a, b, c unix.Stat_t
	unix.Fstat(dir, &a)
	unix.Fstat(again, &b)
	unix.Fstat(node, &c)
	if a.Ino != b.Ino || a.Ino != c.Ino || a.Nlink != 0 || a.Mode != unix.S_IFDIR|0o751 {
		t.Errorf("inodes %d, %d, %d, %d links, mode %#o", a.Ino, b.Ino, c.Ino, a.Nlink, a.Mode)
	}
	if got := string(content(t, inside)); got != "content" {
		t.Errorf("content %q", got)
	}
	if left, _ := os.ReadDir(top); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDeletedFIFO(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(path, 0o640); err != nil {
		t.Fatal(err)
	}
	r := open(t, path, unix.O_RDONLY|unix.O_NONBLOCK)
	w := open(t, path, unix.O_WRONLY)
	mustWrite(t, w, "queued")
	os.Remove(path)
	want := readlink(t, r)
	if b := sdktest.Blockers(fdtest.Check(t, New(), nil, r, w).Findings); len(b) != 0 {
		t.Fatalf("findings %q", b)
	}
	fdtest.Dump(t, New(), nil, r, w).Restore()
	b := make([]byte, 20)
	if n, err := unix.Read(r, b); err != nil || string(b[:n]) != "queued" {
		t.Errorf("read %q, %v", b[:max(n, 0)], err)
	}
	mustWrite(t, w, "more")
	if n, err := unix.Read(r, b); err != nil || string(b[:n]) != "more" {
		t.Errorf("read %q, %v", b[:max(n, 0)], err)
	}
	if got := readlink(t, r); got != want {
		t.Errorf("leads to %s, want %s", got, want)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
