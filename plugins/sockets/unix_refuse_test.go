package sockets

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/sdktest"
)

func TestUnixOutside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := unixSocketOf(t, unix.SOCK_DGRAM, path)
	defer unix.Close(log)
	fd := unixSocketOf(t, unix.SOCK_DGRAM, "")
	if err := kern.ConnectUnix(fd, []byte(path)); err != nil {
		t.Fatal(err)
	}
	blocked(t, "unix socket that is connected to "+path, fd)
	fdtest.Dump(t, New(), map[string]string{"ext-unix-sk": "true"}, fd).Restore()
	mustSend(t, fd, "still there")
	want(t, "log", receive(t, log), "still there")
}

func TestUnixRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l := unixSocketOf(t, unix.SOCK_STREAM, path)
	defer unix.Close(l)
	listen(t, l, 5)
	client := unixSocketOf(t, unix.SOCK_STREAM, "")
	defer unix.Close(client)
	if err := kern.ConnectUnix(client, []byte(path)); err != nil {
		t.Fatal(err)
	}
	blocked(t, "outside the tree waits to be accepted", l)
	blocked(t, "unix connection to "+path+", which a task outside the tree has not accepted yet", client)
	mustSend(t, client, "early")
	blocked(t, "unix connection to "+path+", which was not accepted yet, but has data", l, client)

	a, b := pair(t, unix.SOCK_STREAM)
	defer unix.Close(a)
	defer unix.Close(b)
	blocked(t, "outside the tree", a)
	mustSend(t, a, "x")
	set(t, b, unix.SOL_SOCKET, unix.SO_PASSSEC, 1)
	blocked(t, "carry security labels", a, b)
}

func TestUnixFileTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	l := unixSocketOf(t, unix.SOCK_STREAM, path)
	listen(t, l, 5)
	trip := fdtest.Dump(t, New(), nil, l)
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 1 || !strings.Contains(b[0], path+": is in use by") {
		t.Errorf("findings %q", b)
	}
	unix.Close(l)
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 0 {
		t.Errorf("a file that was left behind: %q", b)
	}
	os.Remove(path)
	os.WriteFile(path, nil, 0o600)
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 1 || !strings.Contains(b[0], "something else is there") {
		t.Errorf("findings %q", b)
	}
	os.RemoveAll(filepath.Dir(path))
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 1 || !strings.Contains(b[0], "cannot be made in its directory") {
		t.Errorf("findings %q", b)
	}
}

func TestSandboxIsRemoved(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	path := filepath.Join(t.TempDir(), "l")
	l := unixSocketOf(t, unix.SOCK_STREAM, path)
	listen(t, l, 5)
	client, server := connectUnix(t, l, unix.SOCK_STREAM, path, "")
	unix.Close(l)
	fdtest.Dump(t, New(), nil, client, server).Restore()
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	mustSend(t, client, "x")
	want(t, "server", receive(t, server), "x")
}

func FuzzParseUnixDiag(f *testing.F) {
	f.Add(append(make([]byte, unixDiagMsgSize), 8, 0, attrPeer, 0, 1, 2, 3, 4))
	f.Add(append(make([]byte, unixDiagMsgSize), 12, 0, attrRQLen, 0, 1, 2, 3, 4, 5, 6, 7, 8))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseUnixDiag(b); err == nil && s == nil {
			t.Error("neither socket nor error")
		}
	})
}
