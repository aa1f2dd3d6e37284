package sockets

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func socket(t *testing.T, family, typ, protocol int) int {
	t.Helper()
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func set(t *testing.T, fd, level, name, value int) {
	t.Helper()
	if err := unix.SetsockoptInt(fd, level, name, value); err != nil {
		t.Fatalf("set option %d of level %d: %v", name, level, err)
	}
}

func get(t *testing.T, fd, level, name int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(fd, level, name)
	if err != nil {
		t.Fatalf("get option %d of level %d: %v", name, level, err)
	}
	return v
}

// bindLocal binds to a free port of the loopback interface.
func bindLocal(t *testing.T, fd int) netip.AddrPort {
	t.Helper()
	var sa unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if get(t, fd, unix.SOL_SOCKET, unix.SO_DOMAIN) == unix.AF_INET6 {
		sa = &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		t.Fatal(err)
	}
	return localAddr(t, fd)
}

func localAddr(t *testing.T, fd int) netip.AddrPort {
	t.Helper()
	local, _, err := inetNames(fd)
	if err != nil {
		t.Fatal(err)
	}
	return addrPort(local)
}

func listen(t *testing.T, fd, backlog int) {
	t.Helper()
	if err := unix.Listen(fd, backlog); err != nil {
		t.Fatal(err)
	}
}

// serveOnce proves that a listener works: a client connects, and data arrives.
func serveOnce(t *testing.T, fd int, addr netip.AddrPort) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr.String(), 5*time.Second)
	if err != nil {
		t.Fatalf("connect to %s: %v", addr, err)
	}
	defer c.Close()
	if err := poll(fd); err != nil {
		t.Fatal(err)
	}
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	fmt.Fprint(c, "hello")
	buf := make([]byte, 10)
	if n, err := unix.Read(conn, buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("read %q: %v", buf[:n], err)
	}
}

func poll(fd int) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p, 5000)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			return fmt.Errorf("nothing comes")
		}
		return err
	}
}

func TestTCPListener(t *testing.T) {
	for _, tt := range []struct {
		name             string
		family, protocol int
	}{
		{"v4", unix.AF_INET, unix.IPPROTO_TCP}, {"v6", unix.AF_INET6, unix.IPPROTO_TCP},
		{"MPTCP v4", unix.AF_INET, unix.IPPROTO_MPTCP}, {"MPTCP v6", unix.AF_INET6, unix.IPPROTO_MPTCP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.protocol == unix.IPPROTO_MPTCP {
				probe, err := unix.Socket(tt.family, unix.SOCK_STREAM, tt.protocol)
				gate.Feature(t, "MPTCP", err == nil)
				unix.Close(probe)
			}
			fd := socket(t, tt.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, tt.protocol)
			set(t, fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
			set(t, fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			addr := bindLocal(t, fd)
			listen(t, fd, 77)
			flags := fdtest.Flags(t, fd)
			trip := fdtest.Dump(t, New(), nil, fd)
			serveOnce(t, fd, addr) // the original still works; a TIME-WAIT remains
			trip.Restore()
			if got := localAddr(t, fd); got != addr {
				t.Errorf("at %s, want %s", got, addr)
			}
			if got := get(t, fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); got != tt.protocol {
				t.Errorf("protocol %d, want %d", got, tt.protocol)
			}
			if got := fdtest.Flags(t, fd); got != flags {
				t.Errorf("flags %#o, want %#o", got, flags)
			}
			if get(t, fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 || get(t, fd, unix.SOL_SOCKET, unix.SO_REUSEADDR) != 1 {
				t.Error("options differ")
			}
			if info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO); err != nil || info.Sacked != 77 {
				t.Errorf("backlog: %v, %v", info, err)
			}
			serveOnce(t, fd, addr)
		})
	}
}

func TestTCPUnconnected(t *testing.T) {
	plain := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	bound := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	addr := bindLocal(t, bound)
	ended := endedConnection(t)
	fdtest.Dump(t, New(), nil, plain, bound, ended).Restore()
	if _, err := unix.Read(plain, make([]byte, 1)); err != unix.ENOTCONN {
		t.Errorf("read of a new socket: %v", err)
	}
	listen(t, bound, 1)
	serveOnce(t, bound, addr)
	if n, err := unix.Read(ended, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("read of an ended connection: %d, %v", n, err)
	}
}

// endedConnection is a connection that both sides have closed, without
// anything unread.
func endedConnection(t *testing.T) int {
	t.Helper()
	client, server := connection(t)
	unix.Shutdown(client, unix.SHUT_WR)
	unix.Close(server)
	poll(client)
	for range 1000 {
		info, err := unix.GetsockoptTCPInfo(client, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		if info.State == stateClose {
			return client
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the connection does not end")
	return -1
}

// connection is a connection over the loopback interface.
func connection(t *testing.T) (client, server int) {
	t.Helper()
	l := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	defer unix.Close(l)
	bindLocal(t, l)
	listen(t, l, 1)
	sa, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	client = socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	if err := unix.Connect(client, sa); err != nil {
		t.Fatal(err)
	}
	if server, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func blocked(t *testing.T, text string, fds ...int) {
	t.Helper()
	b := sdktest.Blockers(fdtest.Check(t, New(), nil, fds...).Findings)
	for _, line := range b {
		if strings.Contains(line, text) && strings.HasPrefix(line, "fd ") {
			return
		}
	}
	t.Errorf("findings %q, want %q", b, text)
}

func TestTCPRefused(t *testing.T) {
	client, server := connection(t)
	defer unix.Close(client)
	defer unix.Close(server)
	local, remote, err := inetNames(client)
	if err != nil {
		t.Fatal(err)
	}
	blocked(t, fmt.Sprintf("established TCP connection %s->%s", addrPort(local), addrPort(remote)), client)
	unix.Shutdown(server, unix.SHUT_WR)
	poll(client)
	blocked(t, fmt.Sprintf("TCP connection in state CLOSE-WAIT %s->%s", addrPort(local), addrPort(remote)), client)

	l := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	defer unix.Close(l)
	addr := bindLocal(t, l)
	listen(t, l, 5)
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	blocked(t, fmt.Sprintf("TCP listener %s: 1 connection waits to be accepted", addr), l)

	failed := socket(t, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	defer unix.Close(failed)
	free := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	bindLocal(t, free)
	sa, _ := unix.Getsockname(free)
	unix.Close(free)
	unix.Connect(failed, sa)
	poll(failed)
	blocked(t, "an error that the program has not seen yet", failed)
}

func TestReusePort(t *testing.T) {
	a := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	set(t, a, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	addr := bindLocal(t, a)
	b := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	set(t, b, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err := unix.Bind(b, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		t.Fatal(err)
	}
	listen(t, a, 1)
	listen(t, b, 1)
	fdtest.Dump(t, New(), nil, a, b).Restore()
	for _, fd := range []int{a, b} {
		if got := localAddr(t, fd); got != addr {
			t.Errorf("at %s, want %s", got, addr)
		}
	}
}

func TestPortTaken(t *testing.T) {
	fd := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	addr := bindLocal(t, fd)
	listen(t, fd, 1)
	trip := fdtest.Dump(t, New(), nil, fd)
	b := sdktest.Blockers(trip.CheckImage()) // the original is still there
	if len(b) != 1 || !strings.Contains(b[0], fmt.Sprintf("TCP %s: is in use by ", addr)) {
		t.Errorf("findings %q", b)
	}
	if f := trip.CheckImage(); f[0].Task != sdk.TaskID(os.Getpid()) || f[0].Subject != fmt.Sprintf("fd %d", fd) {
		t.Errorf("finding %+v", f[0])
	}
	trip.Restore()
	serveOnce(t, fd, addr)
}

// TestTimeWait: a program that does not set SO_REUSEADDR cannot have its port
// back before the last connections are forgotten.
func TestTimeWait(t *testing.T) {
	fd := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	addr := bindLocal(t, fd)
	listen(t, fd, 1)
	trip := fdtest.Dump(t, New(), nil, fd)
	serveOnce(t, fd, addr)
	unix.Close(fd)
	b := sdktest.Blockers(trip.CheckImage())
	if len(b) != 1 || !strings.Contains(b[0], "is in use by a connection in TIME-WAIT") {
		t.Errorf("findings %q", b)
	}
}

func TestAddressGone(t *testing.T) {
	fd := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	set(t, fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 77}, Port: 4711}); err != nil {
		t.Fatal(err)
	}
	set(t, fd, unix.SOL_IP, unix.IP_FREEBIND, 0)
	trip := fdtest.Dump(t, New(), nil, fd)
	unix.Close(fd)
	b := sdktest.Blockers(trip.CheckImage())
	if len(b) != 1 || !strings.Contains(b[0], "TCP 192.0.2.77:4711: this machine does not have the address") {
		t.Errorf("findings %q", b)
	}
}
