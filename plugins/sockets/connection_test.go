package sockets

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// carried are the flags of a checkpoint that carries connections.
var carried = map[string]string{tcpEstablished: "true"}

// localhost are the ends of connections: over IPv4, over IPv6, and over IPv4 with
// a socket of IPv6 at this end.
var localhost = map[string]struct {
	family int
	addr   netip.Addr
	mapped bool
}{
	"v4":     {unix.AF_INET, netip.MustParseAddr("127.0.0.1"), false},
	"v6":     {unix.AF_INET6, netip.IPv6Loopback(), false},
	"mapped": {unix.AF_INET6, netip.MustParseAddr("::ffff:127.0.0.1"), true},
}

// link is a connection of which one end is carried and the other is not.
type link struct {
	t        *testing.T
	fd, peer int
}

func connect(t *testing.T, kind string) *link {
	t.Helper()
	k := localhost[kind]
	l := socket(t, k.family, unix.SOCK_STREAM, 0)
	defer unix.Close(l)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: k.addr.As16()}
	if k.family == unix.AF_INET {
		sa = &unix.SockaddrInet4{Addr: k.addr.As4()}
	}
	if err := unix.Bind(l, sa); err != nil {
		t.Fatal(err)
	}
	// Small windows, so that queues fill up.
	set(t, l, unix.SOL_SOCKET, unix.SO_RCVBUF, 8192)
	listen(t, l, 1)
	sa, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	c := &link{t: t, fd: socket(t, k.family, unix.SOCK_STREAM, 0)}
	if err := unix.Connect(c.fd, sa); err != nil {
		t.Fatal(err)
	}
	if c.peer, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c.peer) })
	return c
}

func (c *link) info() *unix.TCPInfo {
	c.t.Helper()
	info, err := unix.GetsockoptTCPInfo(c.fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		c.t.Fatal(err)
	}
	return info
}

func (c *link) state() uint8 {
	c.t.Helper()
	return c.info().State
}

func (c *link) await(state uint8) {
	c.t.Helper()
	for range 2000 {
		if c.state() == state {
			return
		}
		time.Sleep(time.Millisecond)
	}
	c.t.Fatalf("in state %d, want %d", c.state(), state)
}

// write sends as much as goes and returns it.
func (c *link) write(fd, size int) []byte {
	c.t.Helper()
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	n, err := unix.SendmsgN(fd, data, nil, nil, unix.MSG_DONTWAIT)
	if err != nil {
		c.t.Fatal(err)
	}
	return data[:n]
}

// read reads what must come, and no more.
func (c *link) read(fd int, want []byte) {
	c.t.Helper()
	got := make([]byte, 0, len(want))
	buf := make([]byte, 64<<10)
	for len(got) < len(want) {
		c.wait(fd)
		n, _, err := unix.Recvfrom(fd, buf[:min(len(buf), len(want)-len(got))], 0)
		if err != nil || n == 0 {
			c.t.Fatalf("read %d of %d bytes: %v", len(got), len(want), err)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, want) {
		c.t.Fatal("other bytes than those that were sent")
	}
}

func (c *link) eof(fd int) {
	c.t.Helper()
	c.wait(fd)
	if n, _, err := unix.Recvfrom(fd, make([]byte, 1), 0); n != 0 || err != nil {
		c.t.Fatalf("want the end: %d, %v", n, err)
	}
}

func (c *link) wait(fd int) {
	c.t.Helper()
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for range 100 {
		n, err := unix.Poll(p, 200)
		if n == 1 {
			return
		}
		if err != nil && err != unix.EINTR {
			c.t.Fatal(err)
		}
	}
	c.t.Fatal("nothing to read in twenty seconds")
}

// carry saves and restores the end, and requires that nothing of the lock stays
// and that the state is as before.
func (c *link) carry() {
	c.t.Helper()
	before := c.info()
	trip := fdtest.Dump(c.t, New(), carried, c.fd)
	unlockLater(c.t, trip)
	trip.Restore()
	now := c.info()
	if now.State != before.State {
		c.t.Errorf("in state %d after the restore, was %d", now.State, before.State)
	}
	// Larger ones than half a window wait for a timer each.
	if before.State != stateSynSent && now.Snd_mss > before.Snd_mss {
		c.t.Errorf("sends segments of %d bytes, sent ones of %d", now.Snd_mss, before.Snd_mss)
	}
}

// unlockLater removes the locks of an image that was not restored, when the test
// ends.
func unlockLater(t *testing.T, trip *fdtest.Trip) {
	t.Cleanup(func() {
		for _, r := range trip.Image.Records(t) {
			m := &socketspb.Inet{}
			if r.Kind != kindInet || r.Decode(m) != nil || m.GetConnection().GetLock() == "" {
				continue
			}
			if err := (&network{}).removeLock(m.GetConnection().GetLock()); err != nil {
				t.Error(err)
			}
		}
	})
}

// talk requires that bytes go both ways.
func (c *link) talk() {
	c.t.Helper()
	for range 3 {
		c.read(c.peer, c.write(c.fd, 1000))
		c.read(c.fd, c.write(c.peer, 1000))
	}
}

func needConnections(t *testing.T) {
	gate.Cap(t, unix.CAP_NET_ADMIN)
	gate.Cap(t, unix.CAP_NET_RAW)
}

// TestConnection carries a connection in every state, with something in every
// queue that the state can have.
func TestConnection(t *testing.T) {
	needConnections(t)
	const much = 1 << 20
	states := map[string]func(*link){
		"established": func(c *link) {
			c.talk()
			c.carry()
			c.talk()
		},
		"queues": func(c *link) {
			out, in := c.write(c.fd, much), c.write(c.peer, 5000)
			c.carry()
			c.read(c.fd, in)
			c.read(c.peer, out)
			c.talk()
		},
		"CLOSE-WAIT": func(c *link) {
			in := c.write(c.peer, 700)
			unix.Shutdown(c.peer, unix.SHUT_WR)
			c.await(stateCloseWait)
			out := c.write(c.fd, much)
			c.carry()
			c.read(c.fd, in)
			c.eof(c.fd)
			c.read(c.peer, out)
			c.read(c.peer, c.write(c.fd, 100))
			unix.Shutdown(c.fd, unix.SHUT_WR)
			c.eof(c.peer)
		},
		"FIN-WAIT-1": func(c *link) {
			out := c.write(c.fd, much)
			unix.Shutdown(c.fd, unix.SHUT_WR)
			in := c.write(c.peer, 900)
			c.await(stateFinWait1)
			c.carry()
			c.read(c.peer, out)
			c.eof(c.peer)
			c.read(c.fd, in)
			c.read(c.fd, c.write(c.peer, 900))
			unix.Shutdown(c.peer, unix.SHUT_WR)
			c.eof(c.fd)
		},
		"FIN-WAIT-2": func(c *link) {
			out, in := c.write(c.fd, 300), c.write(c.peer, 900)
			unix.Shutdown(c.fd, unix.SHUT_WR)
			c.await(stateFinWait2)
			c.carry()
			c.read(c.peer, out)
			c.eof(c.peer)
			c.read(c.fd, in)
			c.read(c.fd, c.write(c.peer, 900))
			unix.Shutdown(c.peer, unix.SHUT_WR)
			c.eof(c.fd)
		},
		"CLOSING": func(c *link) {
			out, in := c.write(c.fd, much), c.write(c.peer, 900)
			unix.Shutdown(c.fd, unix.SHUT_WR)
			unix.Shutdown(c.peer, unix.SHUT_WR)
			c.await(stateClosing)
			c.carry()
			c.read(c.fd, in)
			c.eof(c.fd)
			c.read(c.peer, out)
			c.eof(c.peer)
		},
		"LAST-ACK": func(c *link) {
			in := c.write(c.peer, 900)
			unix.Shutdown(c.peer, unix.SHUT_WR)
			c.await(stateCloseWait)
			out := c.write(c.fd, much)
			unix.Shutdown(c.fd, unix.SHUT_WR)
			c.await(stateLastAck)
			c.carry()
			c.read(c.fd, in)
			c.eof(c.fd)
			c.read(c.peer, out)
			c.eof(c.peer)
		},
	}
	for kind := range localhost {
		for name, f := range states {
			t.Run(fmt.Sprintf("%s/%s", kind, name), func(t *testing.T) {
				t.Parallel()
				f(connect(t, kind))
			})
		}
	}
}

// TestConnecting: a connection that the peer has not answered is begun again.
func TestConnecting(t *testing.T) {
	needConnections(t)
	l := socket(t, unix.AF_INET, unix.SOCK_STREAM, 0)
	defer unix.Close(l)
	addr := bindLocal(t, l)
	listen(t, l, 0)
	sa := &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}
	c := &link{t: t}
	var others []int
	// The backlog is full soon: then nobody answers.
	for range 20 {
		c.fd = socket(t, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		unix.Connect(c.fd, sa)
		time.Sleep(5 * time.Millisecond)
		if c.state() == stateSynSent {
			break
		}
		others = append(others, c.fd)
	}
	port := localAddr(t, c.fd)
	c.carry()
	for _, fd := range others {
		unix.Close(fd)
	}
	for deadline := time.Now().Add(20 * time.Second); c.state() != stateEstablished; {
		if time.Now().After(deadline) {
			t.Fatalf("in state %d", c.state())
		}
		p := []unix.PollFd{{Fd: int32(l), Events: unix.POLLIN}}
		if n, _ := unix.Poll(p, 100); n != 1 {
			continue
		}
		fd, from, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if f := from.(*unix.SockaddrInet4); f.Port == int(port.Port()) {
			c.peer = fd
		} else {
			unix.Close(fd)
		}
	}
	defer unix.Close(c.peer)
	c.talk()
}
