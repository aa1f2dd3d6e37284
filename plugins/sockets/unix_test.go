package sockets

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

func pair(t *testing.T, typ int) (a, b int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

func unixSocketOf(t *testing.T, typ int, name string) int {
	t.Helper()
	fd := socket(t, unix.AF_UNIX, typ, 0)
	if name != "" {
		if err := kern.BindUnix(fd, []byte(name)); err != nil {
			t.Fatalf("bind to %q: %v", name, err)
		}
	}
	return fd
}

func mustSend(t *testing.T, fd int, msgs ...string) {
	t.Helper()
	for _, m := range msgs {
		if n, err := unix.SendmsgN(fd, []byte(m), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil || n != len(m) {
			t.Fatalf("send %d bytes: %d, %v", len(m), n, err)
		}
	}
}

// receive reads everything, message by message, up to the end or to what would
// block.
func receive(t *testing.T, fd int) []string {
	t.Helper()
	var out []string
	typ := get(t, fd, unix.SOL_SOCKET, unix.SO_TYPE)
	buf := make([]byte, 1<<20)
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return out
		}
		if err != nil {
			return append(out, err.Error())
		}
		if n == 0 && typ != unix.SOCK_DGRAM {
			return append(out, "EOF")
		}
		out = append(out, string(buf[:n]))
	}
}

func want(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "|") != strings.Join(want, "|") || len(got) != len(want) {
		t.Errorf("%s: got %.200q, want %.200q", what, got, want)
	}
}

func TestUnixPairs(t *testing.T) {
	for typ, name := range map[int]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "dgram", unix.SOCK_SEQPACKET: "seqpacket"} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, typ)
			unix.SetNonblock(a, true)
			mustSend(t, a, "to b 1", "to b 2", strings.Repeat("x", 70000))
			mustSend(t, b, "to a")
			set(t, a, unix.SOL_SOCKET, unix.SO_SNDBUF, 300000)
			sizeA, sizeB := get(t, a, unix.SOL_SOCKET, unix.SO_SNDBUF), get(t, b, unix.SOL_SOCKET, unix.SO_SNDBUF)
			flags := fdtest.Flags(t, a)
			trip := fdtest.Dump(t, New(), nil, a, b)
			if got := get(t, b, unix.SOL_SOCKET, unix.SO_PEEK_OFF); got != -1 {
				t.Errorf("the dump left SO_PEEK_OFF at %d", got)
			}
			trip.Restore()
			if got := fdtest.Flags(t, a); got != flags {
				t.Errorf("flags %#o, want %#o", got, flags)
			}
			if gotA, gotB := get(t, a, unix.SOL_SOCKET, unix.SO_SNDBUF), get(t, b, unix.SOL_SOCKET, unix.SO_SNDBUF); gotA != sizeA || gotB != sizeB {
				t.Errorf("buffers %d and %d, want %d and %d", gotA, gotB, sizeA, sizeB)
			}
			if get(t, a, unix.SOL_SOCKET, unix.SO_BUF_LOCK) != 1 || get(t, b, unix.SOL_SOCKET, unix.SO_BUF_LOCK) != 0 {
				t.Error("locks of buffers differ")
			}
			mustSend(t, a, "and more")
			mustSend(t, b, "back")
			x := strings.Repeat("x", 70000)
			if typ == unix.SOCK_STREAM {
				want(t, "b", receive(t, b), "to b 1to b 2"+x+"and more")
				want(t, "a", receive(t, a), "to aback")
			} else {
				want(t, "b", receive(t, b), "to b 1", "to b 2", x, "and more")
				want(t, "a", receive(t, a), "to a", "back")
			}
		})
	}
}

// TestUnixFull: a queue as full as its sender's buffer allows, of many small
// messages, which take more room than few big ones.
func TestUnixFull(t *testing.T) {
	for typ, name := range map[int]string{unix.SOCK_STREAM: "stream", unix.SOCK_SEQPACKET: "seqpacket"} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, typ)
			n := 0
			for ; ; n++ {
				if _, err := unix.SendmsgN(a, fmt.Appendf(nil, "%08d", n), nil, nil, unix.MSG_DONTWAIT); err != nil {
					break
				}
			}
			fdtest.Dump(t, New(), nil, b, a).Restore()
			all := strings.Join(receive(t, b), "")
			if len(all) != 8*n {
				t.Fatalf("%d bytes, want %d", len(all), 8*n)
			}
			for i := range n {
				if got := all[8*i : 8*i+8]; got != fmt.Sprintf("%08d", i) {
					t.Fatalf("message %d is %q", i, got)
				}
			}
		})
	}
}

func TestUnixEmptyMessages(t *testing.T) {
	for _, typ := range []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		a, b := pair(t, typ)
		mustSend(t, a, "", "one", "", "two", "")
		fdtest.Dump(t, New(), nil, a, b).Restore()
		buf := make([]byte, 10)
		var got []string
		for range 5 {
			n, _, err := unix.Recvfrom(b, buf, unix.MSG_DONTWAIT)
			got = append(got, fmt.Sprint(string(buf[:max(n, 0)]), err))
		}
		want(t, fmt.Sprint("type ", typ), got, "<nil>", "one<nil>", "<nil>", "two<nil>", "<nil>")
	}
}

func TestUnixHalfClosed(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM)
	mustSend(t, a, "last words")
	unix.Shutdown(a, unix.SHUT_WR)
	fdtest.Dump(t, New(), nil, a, b).Restore()
	want(t, "b", receive(t, b), "last words", "EOF")
	mustSend(t, b, "answer")
	want(t, "a", receive(t, a), "answer")
	if _, err := unix.SendmsgN(a, []byte("x"), nil, nil, unix.MSG_NOSIGNAL); err != unix.EPIPE {
		t.Errorf("send after shutdown: %v", err)
	}
	if _, err := unix.SendmsgN(b, []byte("x"), nil, nil, unix.MSG_NOSIGNAL); err != nil {
		t.Errorf("send to the half that still reads: %v", err)
	}
}

func TestUnixOrphans(t *testing.T) {
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		a, b := pair(t, typ)
		mustSend(t, b, "testament")
		unix.Close(b)
		c, d := pair(t, typ)
		mustSend(t, c, "unread")
		unix.Close(d) // with something unread: resets c
		fdtest.Dump(t, New(), nil, a, c).Restore()
		want(t, "after the end", receive(t, a), "testament", "EOF")
		if _, err := unix.SendmsgN(a, []byte("x"), nil, nil, unix.MSG_NOSIGNAL); err != unix.EPIPE {
			t.Errorf("send to nobody: %v", err)
		}
		want(t, "after a reset", receive(t, c), unix.ECONNRESET.Error())
		want(t, "then", receive(t, c), "EOF")
	}
	a, b := pair(t, unix.SOCK_DGRAM)
	mustSend(t, b, "datagram")
	unix.Close(b)
	fdtest.Dump(t, New(), nil, a).Restore()
	want(t, "datagram", receive(t, a), "datagram")
	if _, err := unix.SendmsgN(a, []byte("x"), nil, nil, unix.MSG_NOSIGNAL); err != unix.ECONNREFUSED {
		t.Errorf("send to nobody: %v", err)
	}
}

// serveUnix proves that a listener works.
func serveUnix(t *testing.T, fd int, name []byte) {
	t.Helper()
	c := socket(t, unix.AF_UNIX, get(t, fd, unix.SOL_SOCKET, unix.SO_TYPE), 0)
	defer unix.Close(c)
	if err := kern.ConnectUnix(c, name); err != nil {
		t.Fatalf("connect to %q: %v", name, err)
	}
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	mustSend(t, c, "hello")
	want(t, "server", receive(t, conn), "hello")
}

func TestUnixListeners(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sock")
	for typ, name := range map[int]string{
		unix.SOCK_STREAM:    path,
		unix.SOCK_SEQPACKET: fmt.Sprintf("\x00firn test %d \x00 binary", os.Getpid()),
	} {
		fd := unixSocketOf(t, typ, name)
		if name == path {
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(path, os.Getuid(), 0); err != nil {
				t.Fatal(err)
			}
		}
		listen(t, fd, 33)
		fdtest.Dump(t, New(), nil, fd).Restore()
		serveUnix(t, fd, []byte(name))
		if got, err := kern.UnixName(fd); string(got) != name || err != nil {
			t.Errorf("name %q, %v; want %q", got, err, name)
		}
		all, err := (&network{}).unixSockets()
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || all[uint32(st.Ino)].backlog != 33 {
			t.Errorf("backlog: %+v, %v", all[uint32(st.Ino)], err)
		}
	}
	if st, err := os.Lstat(path); err != nil || st.Mode() != os.ModeSocket|0o640 {
		t.Errorf("file %v, %v", st, err)
	}
}

// TestUnixListenerCredentials: clients see who listened.
func TestUnixListenerCredentials(t *testing.T) {
	gate.Cap(t, unix.CAP_SETUID)
	name := fmt.Sprintf("\x00firn credentials %d", os.Getpid())
	fd := unixSocketOf(t, unix.SOCK_STREAM, name)
	run := &tape.Tape{}
	run.Call(unix.SYS_SETRESGID, tape.Imm(unchanged), tape.Imm(2345), tape.Imm(unchanged))
	run.Call(unix.SYS_SETRESUID, tape.Imm(unchanged), tape.Imm(1234), tape.Imm(unchanged))
	run.Call(unix.SYS_LISTEN, tape.Imm(fd), tape.Imm(7))
	if out := sdktest.Execute(tape.Run{Tape: run}); out.Err != nil {
		t.Fatal(out.Err)
	}
	fdtest.Dump(t, New(), nil, fd).Restore()
	got, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || *got != (unix.Ucred{Pid: int32(os.Getpid()), Uid: 1234, Gid: 2345}) {
		t.Errorf("credentials %+v, %v", got, err)
	}
	serveUnix(t, fd, []byte(name))
}

// TestUnixRelative: names that are relative, and a file that is gone.
func TestUnixRelative(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("sub", 0o700); err != nil {
		t.Fatal(err)
	}
	rel := unixSocketOf(t, unix.SOCK_STREAM, "sub/../rel")
	listen(t, rel, 1)
	gone := unixSocketOf(t, unix.SOCK_STREAM, "../gone-"+filepath.Base(dir))
	listen(t, gone, 1)
	os.Remove(filepath.Join(dir, "../gone-"+filepath.Base(dir)))
	fdtest.Dump(t, New(), nil, rel, gone).Restore()
	serveUnix(t, rel, []byte("rel"))
	for fd, name := range map[int]string{rel: "sub/../rel", gone: "../gone-" + filepath.Base(dir)} {
		if got, err := kern.UnixName(fd); string(got) != name || err != nil {
			t.Errorf("name %q, %v; want %q", got, err, name)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "../gone-"+filepath.Base(dir))); err == nil {
		t.Error("the file that was removed is back")
	}
}

// connectUnix makes a connection over a listener, which stays.
func connectUnix(t *testing.T, listener, typ int, name, clientName string) (client, server int) {
	t.Helper()
	client = unixSocketOf(t, typ, clientName)
	if err := kern.ConnectUnix(client, []byte(name)); err != nil {
		t.Fatal(err)
	}
	server, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// TestUnixConnections: connections have the name of the listener; it goes on.
func TestUnixConnections(t *testing.T) {
	dir := t.TempDir()
	for name, typ := range map[string]int{
		filepath.Join(dir, "stream"):                       unix.SOCK_STREAM,
		filepath.Join(dir, "seqpacket"):                    unix.SOCK_SEQPACKET,
		fmt.Sprintf("\x00firn connection %d", os.Getpid()): unix.SOCK_STREAM,
	} {
		l := unixSocketOf(t, typ, name)
		listen(t, l, 5)
		client, server := connectUnix(t, l, typ, name, "")
		named, other := connectUnix(t, l, typ, name, name+" client")
		mustSend(t, client, "question")
		mustSend(t, other, "to the named one")
		fdtest.Dump(t, New(), nil, client, l, server, named, other).Restore()
		for _, c := range []struct {
			fd         int
			name, peer string
		}{{client, "", name}, {server, name, ""}, {named, name + " client", name}, {other, name, name + " client"}, {l, name, ""}} {
			if got, _ := kern.UnixName(c.fd); string(got) != c.name {
				t.Errorf("name %q, want %q", got, c.name)
			}
			if got, _ := kern.UnixPeerName(c.fd); string(got) != c.peer {
				t.Errorf("%q: peer %q, want %q", c.name, got, c.peer)
			}
		}
		want(t, "server", receive(t, server), "question")
		want(t, "named client", receive(t, named), "to the named one")
		mustSend(t, server, "answer")
		want(t, "client", receive(t, client), "answer")
		serveUnix(t, l, []byte(name))
	}
}

func TestUnixDatagrams(t *testing.T) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	log := unixSocketOf(t, unix.SOCK_DGRAM, name("log"))
	alice := unixSocketOf(t, unix.SOCK_DGRAM, name("alice"))
	nobody := unixSocketOf(t, unix.SOCK_DGRAM, "")
	for _, fd := range []int{alice, nobody} {
		if err := kern.ConnectUnix(fd, []byte(name("log"))); err != nil {
			t.Fatal(err)
		}
	}
	left, right := unixSocketOf(t, unix.SOCK_DGRAM, name("left")), unixSocketOf(t, unix.SOCK_DGRAM, name("right"))
	mustSendTo(t, alice, name("right"), "before it was connected")
	for fd, to := range map[int]string{left: "right", right: "left"} {
		if err := kern.ConnectUnix(fd, []byte(name(to))); err != nil {
			t.Fatal(err)
		}
	}
	mustSend(t, alice, "from alice")
	mustSend(t, nobody, "from nobody")
	mustSend(t, left, "from left")
	mustSendTo(t, log, name("log"), "to myself")
	fdtest.Dump(t, New(), nil, alice, nobody, right, left, log).Restore()
	mustSend(t, alice, "again")
	for _, m := range []struct {
		fd         int
		from, text string
	}{
		{log, name("alice"), "from alice"}, {log, "", "from nobody"}, {log, name("log"), "to myself"}, {log, name("alice"), "again"},
		{right, name("alice"), "before it was connected"}, {right, name("left"), "from left"},
	} {
		buf := make([]byte, 100)
		n, from, err := unix.Recvfrom(m.fd, buf, unix.MSG_DONTWAIT)
		if err != nil || goName(from) != m.from || string(buf[:n]) != m.text {
			t.Errorf("%q from %q: %v; want %q from %q", buf[:max(n, 0)], goName(from), err, m.text, m.from)
		}
	}
	mustSend(t, right, "reply")
	want(t, "left", receive(t, left), "reply")
}

func mustSendTo(t *testing.T, fd int, to, msg string) {
	t.Helper()
	if err := unix.Sendto(fd, []byte(msg), unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: to}); err != nil {
		t.Fatal(err)
	}
}
