package procfs

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const mountinfoSample = `22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:4 - ext3 /dev/root rw,errors=continue
37 35 0:44 / /x rw - fuse.sshfs a\134b: rw,user_id=0
`

func TestParseMountInfo(t *testing.T) {
	got, err := ParseMountInfo([]byte(mountinfoSample))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{ID: 22, Parent: 27, Dev: unix.Mkdev(0, 21), Root: "/", Point: "/proc", Options: "rw,relatime", FS: "proc", Source: "proc", Super: "rw"},
		{ID: 36, Parent: 35, Dev: unix.Mkdev(98, 0), Root: "/mnt1", Point: "/mnt 2", Options: "rw,noatime",
			Propagation: []string{"master:1", "shared:4"}, FS: "ext3", Source: "/dev/root", Super: "rw,errors=continue"},
		{ID: 37, Parent: 35, Dev: unix.Mkdev(0, 44), Root: "/", Point: "/x", Options: "rw", FS: "fuse.sshfs", Source: `a\b:`, Super: "rw,user_id=0"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for _, bad := range []string{"\n", "1 2 3:4 / / rw\n", "1 2 3:4 / / rw - ext4\n", "x 2 3:4 / / rw - ext4 a rw\n"} {
		if _, err := ParseMountInfo([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	own, err := Mounts(os.Getpid())
	if err != nil || len(own) == 0 {
		t.Errorf("own mounts: %d, %v", len(own), err)
	}
}

func FuzzParseMountInfo(f *testing.F) {
	f.Add([]byte(mountinfoSample))
	esc := strings.NewReplacer(" ", `\040`, "\n", `\012`, "\t", `\011`, `\`, `\134`).Replace
	f.Fuzz(func(t *testing.T, b []byte) {
		mounts, err := ParseMountInfo(b)
		if err != nil {
			return
		}
		var out []byte
		for _, m := range mounts {
			opt := strings.Join(append(m.Propagation, ""), " ")
			out = fmt.Appendf(out, "%d %d %d:%d %s %s %s %s- %s %s %s\n", m.ID, m.Parent, unix.Major(m.Dev), unix.Minor(m.Dev),
				esc(m.Root), esc(m.Point), m.Options, opt, esc(m.FS), esc(m.Source), m.Super)
		}
		again, err := ParseMountInfo(out)
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if !reflect.DeepEqual(mounts, again) {
			t.Fatalf("%+v became %+v", mounts, again)
		}
	})
}
