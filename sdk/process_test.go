package sdk

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPeerCredentials(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for pid, want := range map[int]error{os.Getpid(): nil, os.Getppid(): ErrNotPermitted} {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, _, err := newPeerCredentials(pid).Clone().ServerHandshake(conn); !errors.Is(err, want) {
			t.Errorf("peer %d: %v, want %v", pid, err, want)
		}
	}
	a, b := net.Pipe()
	defer b.Close()
	if _, _, err := newPeerCredentials(os.Getpid()).ServerHandshake(a); !errors.Is(err, ErrNotPermitted) {
		t.Errorf("a pipe: %v", err)
	}
}

func TestReceiveFile(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	for _, c := range []struct {
		text string
		fds  []int
		want error
	}{
		{"image", []int{fd}, nil},
		{"image", []int{fd, fd}, ErrCorrupt},
		{"other", []int{fd}, ErrCorrupt},
		{"image", nil, ErrCorrupt},
		{"image", []int{fd, fd, fd, fd, fd, fd}, ErrCorrupt},
	} {
		before := openFiles(t)
		var rights []byte
		if c.fds != nil {
			rights = unix.UnixRights(c.fds...)
		}
		if err := unix.Sendmsg(pair[0], []byte(c.text), rights, nil, 0); err != nil {
			t.Fatal(err)
		}
		f, err := receiveFile(pair[1], "image")
		if !errors.Is(err, c.want) {
			t.Errorf("%q with %d descriptors: %v, want %v", c.text, len(c.fds), err, c.want)
		}
		if err == nil {
			f.Close()
		}
		if after := openFiles(t); after != before {
			t.Errorf("%q with %d descriptors: %d are left open", c.text, len(c.fds), after-before)
		}
	}
	if _, err := receiveFile(pair[1], "image"); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("nothing sent: %v", err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
