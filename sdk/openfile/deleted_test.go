package openfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/openfile"
)

func TestDeletedDirectory(t *testing.T) {
	top := t.TempDir()
	for _, path := range []string{filepath.Join(top, "a"), filepath.Join(top, "b/c/d"), filepath.Join(top, "there")} {
		if filepath.Base(path) == "there" {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		d := openfile.Directory{Path: path, Mode: unix.S_IFDIR | 0o1751}
		fd, err := d.Make()
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Nlink != 0 || st.Mode != d.Mode {
			t.Errorf("%s: %d links, mode %#o: %v", path, st.Nlink, st.Mode, err)
		}
		if link, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); filepath.Base(path) != "there" && link != path+" (deleted)" {
			t.Errorf("%s: is called %s", path, link)
		}
	}
	left, err := os.ReadDir(top)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := openfile.WritableDirectory(filepath.Join(top, "x/y")); err != nil {
		t.Error(err)
	}
	if err := openfile.WritableDirectory("/etc/passwd/x"); err == nil {
		t.Error("a regular file is a directory")
	}
}
