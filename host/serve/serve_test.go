package serve

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (int, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return fds[0], fds[1]
}

func TestMessages(t *testing.T) {
	a, b := pair(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	sent := request{Args: []string{"check", "1"}, Env: []string{"A=b=c"}, Umask: 0o27}
	if err := send(a, &sent, fd, fd, fd, fd); err != nil {
		t.Fatal(err)
	}
	var got request
	files, err := receive(b, &got)
	defer closeAll(files)
	if err != nil || len(files) != requestFiles {
		t.Fatalf("%d files: %v", len(files), err)
	}
	if !slices.Equal(got.Args, sent.Args) || !slices.Equal(got.Env, sent.Env) || got.Umask != sent.Umask {
		t.Errorf("sent %+v, got %+v", sent, got)
	}
	if err := send(a, &request{Env: []string{strings.Repeat("x", maxMessage)}}); !errors.Is(err, errTooLarge) {
		t.Errorf("a message that is too large: %v", err)
	}
	if _, err := unix.Write(a, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(b, &got); err == nil {
		t.Error("half a message was taken")
	}
	unix.Shutdown(a, unix.SHUT_WR)
	if _, err := receive(b, &got); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestServed(t *testing.T) {
	for line, want := range map[string]bool{
		"":                                 false,
		"version":                          false,
		"checkpoint 1 -o x":                true,
		"dump 1 -o x":                      true,
		"check 1":                          true,
		"check --help":                     false,
		"checkpoint 1 -o x --shell-job":    false,
		"restore x":                        false,
		"restore -d x":                     true,
		"restore --detach x":               true,
		"restore -d --inherit 5 x":         false,
		"restore -d --inherit-fd fd[5]: x": false,
		"restore -d --lazy x":              false,
	} {
		if got := Served(strings.Fields(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// TestCheckPeer: the other end of a pair is this process.
func TestCheckPeer(t *testing.T) {
	a, b := pair(t)
	if err := errors.Join(checkPeer(a), checkGroups(a)); err != nil {
		t.Error(err)
	}
	unix.Shutdown(b, unix.SHUT_RDWR)
	if err := checkPeer(a); err == nil {
		t.Error("a peer that has gone may ask")
	}
}
