package sockets

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// TestUDPLite: addresses, coverage and what has been received.
func TestUDPLite(t *testing.T) {
	gate.Cap(t, unix.CAP_NET_RAW)
	server := socket(t, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, unix.IPPROTO_UDPLITE)
	addr := bindLocal(t, server)
	client := socket(t, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE)
	set(t, client, unix.IPPROTO_UDPLITE, liteSendCoverage, 20)
	if err := unix.Connect(client, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		t.Fatal(err)
	}
	from := localAddr(t, client)
	const text = "covered, and not covered"
	if _, err := unix.Write(client, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := poll(server); err != nil {
		t.Fatal(err)
	}
	fdtest.Dump(t, New(), nil, server, client).Restore()
	if got := get(t, client, unix.IPPROTO_UDPLITE, liteSendCoverage); got != 20 {
		t.Errorf("coverage %d, want 20", got)
	}
	for _, again := range []bool{false, true} {
		if again {
			if _, err := unix.Write(client, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := poll(server); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 100)
		n, sa, err := unix.Recvfrom(server, buf, 0)
		if err != nil || string(buf[:n]) != text || addrPort(inetAddress(sa)) != from {
			t.Errorf("got %q from %v: %v", buf[:n], sa, err)
		}
	}
}

// TestRaw: a raw socket keeps its protocol, filter, address and peer, and is
// refused while it holds packets.
func TestRaw(t *testing.T) {
	gate.Cap(t, unix.CAP_NET_RAW)
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	fd := socket(t, unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMP)
	set(t, fd, unix.SOL_RAW, icmpFilter, -1)
	if err := unix.Connect(fd, loopback); err != nil {
		t.Fatal(err)
	}
	header := socket(t, unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)
	bound := socket(t, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err := unix.Bind(bound, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 3}}); err != nil {
		t.Fatal(err)
	}
	fdtest.Dump(t, New(), nil, fd, header, bound).Restore()
	if got := uint32(get(t, fd, unix.SOL_RAW, icmpFilter)); got != ^uint32(0) {
		t.Errorf("filter %#x", got)
	}
	if got := get(t, bound, unix.SOL_IP, ipHdrIncl); got != 1 {
		t.Errorf("IP_HDRINCL %d", got)
	}
	if sa, err := unix.Getsockname(bound); err != nil || sa.(*unix.SockaddrInet4).Addr != [4]byte{127, 0, 0, 3} {
		t.Errorf("bound to %v: %v", sa, err)
	}
	set(t, fd, unix.SOL_RAW, icmpFilter, -2) // all but echo reply, which is type 0
	echo := []byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}
	if _, err := unix.Write(fd, echo); err != nil {
		t.Fatal(err)
	}
	if err := poll(fd); err != nil {
		t.Fatal(err)
	}
	blocked(t, "packets that the program has not read yet", fd)
	buf := make([]byte, 100)
	n, err := unix.Read(fd, buf)
	if err != nil || n != 28 || !bytes.Equal(buf[24:28], echo[4:]) {
		t.Errorf("read %x: %v", buf[:n], err)
	}
}

// TestRawError: an error does not hide packets that were not read.
func TestRawError(t *testing.T) {
	gate.Cap(t, unix.CAP_NET_RAW)
	fd := socket(t, unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	set(t, fd, unix.SOL_IP, unix.IP_RECVERR, 1)
	// Nobody has the port: the answer is an error, and the socket sees what it sent.
	if _, err := unix.Write(fd, []byte{0, 9, 0, 9, 0, 8, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if err := poll(fd); err != nil {
		t.Fatal(err)
	}
	if p, err := pollSocket(fd); err != nil || !p.has(unix.POLLERR) || !p.has(unix.POLLIN) {
		t.Fatalf("poll: %#x, %v", p, err)
	}
	blocked(t, "packets that the program has not read yet", fd)
}
