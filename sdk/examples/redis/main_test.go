package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// server answers as redis does and remembers what it was asked.
func server(t *testing.T, answer func(command string) string) (address string, commands func() string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var mu sync.Mutex
	var all []string
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					mu.Lock()
					all = append(all, lines.Text())
					mu.Unlock()
					_, _ = io.WriteString(conn, answer(lines.Text()))
				}
			}()
		}
	}()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ok := false
	if err := raw.Control(func(fd uintptr) { address, ok = listens(int(fd)) }); err != nil || !ok {
		t.Fatalf("does not listen: %v", err)
	}
	return address, func() string { mu.Lock(); defer mu.Unlock(); return strings.Join(all, ", ") }
}

func TestClient(t *testing.T) {
	saving := 2
	address, commands := server(t, func(command string) string {
		switch {
		case !strings.HasPrefix(command, "INFO"):
			return "+OK\r\n"
		case saving > 0:
			saving--
			return "$26\r\nrdb_bgsave_in_progress:1\r\n\r\n"
		}
		return "$26\r\nrdb_bgsave_in_progress:0\r\n\r\n"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := with(ctx, address, "secret", func(c *client) error { return c.awaitSaved(ctx) }); err != nil {
		t.Fatal(err)
	}
	if got, want := commands(), "AUTH secret, INFO persistence, INFO persistence, INFO persistence"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestErrors(t *testing.T) {
	for answer, want := range map[string]string{
		"-NOAUTH Authentication required.\r\n": "NOAUTH", ":1\r\n": "answer", "$-1\r\n": "answer", "+NO\r\n": `"NO"`,
	} {
		address, _ := server(t, func(string) string { return answer })
		if err := unpause(t.Context(), address, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", answer, err)
		}
	}
}

func TestListens(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if address, ok := listens(fd); ok {
		t.Errorf("a socket that does not listen has address %s", address)
	}
}
