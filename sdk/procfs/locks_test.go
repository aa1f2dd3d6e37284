package procfs

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

const locksSample = "1: POSIX  ADVISORY  WRITE 16278 fe:00:9977956 0 EOF\n" +
	"1: -> POSIX  ADVISORY  READ 16300 fe:00:9977956 0 99\n" +
	"2: FLOCK  ADVISORY  WRITE 16278 fe:00:9977956 0 EOF\n" +
	"3: LEASE  ACTIVE    READ 77 00:2f:12 0 EOF\n" +
	"4: OFDLCK ADVISORY  READ -1 <none>:0 0 EOF\n"

func TestParseLocks(t *testing.T) {
	got, err := ParseLocks([]byte(locksSample))
	if err != nil {
		t.Fatal(err)
	}
	dev := unix.Mkdev(0xfe, 0)
	want := []Lock{
		{Type: "POSIX", State: "ADVISORY", Access: "WRITE", PID: 16278, Dev: dev, Ino: 9977956, End: LockEOF},
		{Waiting: true, Type: "POSIX", State: "ADVISORY", Access: "READ", PID: 16300, Dev: dev, Ino: 9977956, End: 99},
		{Type: "FLOCK", State: "ADVISORY", Access: "WRITE", PID: 16278, Dev: dev, Ino: 9977956, End: LockEOF},
		{Type: "LEASE", State: "ACTIVE", Access: "READ", PID: 77, Dev: unix.Mkdev(0, 0x2f), Ino: 12, End: LockEOF},
		{Type: "OFDLCK", State: "ADVISORY", Access: "READ", PID: -1, End: LockEOF},
	}
	if len(got) != len(want) {
		t.Fatalf("got %d locks, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("lock %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
	for _, bad := range []string{"1: POSIX\n", "\n", "1 FLOCK ADVISORY WRITE 1 fe:00:1 0 EOF\n",
		"1: FLOCK ADVISORY WRITE x fe:00:1 0 EOF\n", "1: FLOCK ADVISORY WRITE 1 fe:00 0 EOF\n"} {
		if _, err := ParseLocks([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := Locks(); err != nil {
		t.Error(err)
	}
}

func formatLock(n int, l Lock) string {
	arrow, inode, end := "", "<none>:0", "EOF"
	if l.Waiting {
		arrow = "-> "
	}
	if l.Dev != 0 || l.Ino != 0 {
		inode = fmt.Sprintf("%02x:%02x:%d", unix.Major(l.Dev), unix.Minor(l.Dev), l.Ino)
	}
	if l.End != LockEOF {
		end = fmt.Sprint(l.End)
	}
	return fmt.Sprintf("%d: %s%s %s %s %d %s %d %s", n, arrow, l.Type, l.State, l.Access, l.PID, inode, l.Start, end)
}

func FuzzParseLocks(f *testing.F) {
	f.Add([]byte(locksSample))
	f.Fuzz(func(t *testing.T, b []byte) {
		locks, err := ParseLocks(b)
		if err != nil {
			return
		}
		var out []byte
		for i, l := range locks {
			out = fmt.Appendf(out, "%s\n", formatLock(i+1, l))
		}
		again, err := ParseLocks(out)
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		for i := range locks {
			if locks[i] != again[i] {
				t.Fatalf("%+v became %+v", locks[i], again[i])
			}
		}
	})
}
