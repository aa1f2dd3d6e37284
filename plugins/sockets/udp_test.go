package sockets

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/kern"
)

func TestUDP(t *testing.T) {
	server := socket(t, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	addr := bindLocal(t, server)
	client := socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	set(t, client, unix.SOL_IP, unix.IP_TTL, 9)
	if err := unix.Connect(client, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		t.Fatal(err)
	}
	from := localAddr(t, client)
	unbound := socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	fdtest.Dump(t, New(), nil, server, client, unbound).Restore()
	if got := localAddr(t, server); got != addr {
		t.Errorf("server at %s, want %s", got, addr)
	}
	if got := localAddr(t, client); got != from {
		t.Errorf("client at %s, want %s", got, from)
	}
	if get(t, client, unix.SOL_IP, unix.IP_TTL) != 9 {
		t.Error("time to live differs")
	}
	if _, err := unix.Write(client, []byte("datagram")); err != nil {
		t.Fatal(err)
	}
	if err := poll(server); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 20)
	n, sa, err := unix.Recvfrom(server, buf, 0)
	if err != nil || string(buf[:n]) != "datagram" || addrPort(inetAddress(sa)) != from {
		t.Errorf("got %q from %v: %v", buf[:n], sa, err)
	}
	set(t, client, unix.SOL_UDP, unix.UDP_CORK, 1)
	blocked(t, "is corked", client)
	set(t, client, unix.SOL_UDP, unix.UDP_CORK, 0)
	unix.Sendto(client, []byte("held"), unix.MSG_MORE, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())})
	blocked(t, "that were not sent", client)
}

func TestMulticast(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	v4 := socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	v6 := socket(t, unix.AF_INET6, unix.SOCK_DGRAM, 0)
	member := kern.GroupFilter{Index: lo.Index, Group: netip.MustParseAddr("239.77.12.9"), Exclude: true,
		Sources: []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("10.9.9.10")}}
	member6 := kern.GroupFilter{Index: lo.Index, Group: netip.MustParseAddr("ff15::77:9"), Exclude: true}
	only := kern.GroupFilter{Index: lo.Index, Group: netip.MustParseAddr("239.77.12.10"), Sources: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	for _, m := range []struct {
		fd int
		f  kern.GroupFilter
	}{{v4, member}, {v4, only}, {v6, member6}} {
		if err := kern.JoinGroup(m.fd, m.f); err != nil {
			t.Fatal(err)
		}
	}
	fdtest.Dump(t, New(), nil, v4, v6).Restore()
	for _, m := range []struct {
		fd int
		f  kern.GroupFilter
	}{{v4, member}, {v4, only}, {v6, member6}} {
		got, err := kern.GetGroupFilter(m.fd, lo.Index, m.f.Group)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(m.f) {
			t.Errorf("membership %+v, %v; want %+v", got, err, m.f)
		}
	}
	if _, err := kern.GetGroupFilter(v4, lo.Index, netip.MustParseAddr("239.77.12.11")); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("a group that was not joined: %v", err)
	}
}

// TestDatagrams: what a program has not read yet it reads after the restore, with
// the addresses of those who sent it, whoever they are.
func TestDatagrams(t *testing.T) {
	needConnections(t)
	for name, c := range map[string]struct {
		family   int
		bound    unix.Sockaddr
		from, to string
	}{
		"v4":     {unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, "192.0.2.7:1234", "127.0.0.1"},
		"any":    {unix.AF_INET, &unix.SockaddrInet4{}, "127.0.0.5:99", "127.0.0.1"},
		"v6":     {unix.AF_INET6, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}, "[2001:db8::7]:1234", "::1"},
		"mapped": {unix.AF_INET6, &unix.SockaddrInet6{}, "192.0.2.7:1234", "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			fd := socket(t, c.family, unix.SOCK_DGRAM, 0)
			if err := unix.Bind(fd, c.bound); err != nil {
				t.Fatal(err)
			}
			from, port := netip.MustParseAddrPort(c.from), localAddr(t, fd).Port()
			to := netip.AddrPortFrom(netip.MustParseAddr(c.to), port)
			sent := [][]byte{[]byte("one"), {}, make([]byte, 9000), []byte("odd"), bytes.Repeat([]byte("large"), 12000), []byte("last")}
			for i, d := range sent {
				f := netip.AddrPortFrom(from.Addr(), from.Port()+uint16(i))
				if err := sendRaw(f.Addr(), to.Addr(), unix.IPPROTO_UDP, udpOf(unix.IPPROTO_UDP, f, to, d)); err != nil {
					t.Fatal(err)
				}
			}
			fdtest.Dump(t, New(), nil, fd).Restore()
			buf := make([]byte, maxDatagram)
			for i, d := range sent {
				n, sa, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
				if err != nil || !bytes.Equal(buf[:n], d) {
					t.Fatalf("datagram %d: %d bytes, want %d: %v", i, n, len(d), err)
				}
				if got := addrPort(inetAddress(sa)); got.Addr() != from.Addr() || got.Port() != from.Port()+uint16(i) {
					t.Errorf("datagram %d is from %s", i, got)
				}
			}
			if _, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err != unix.EAGAIN {
				t.Errorf("and one more: %v", err)
			}
		})
	}
	fd := socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	defer unix.Close(fd)
	addr := bindLocal(t, fd)
	unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo")
	unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())})
	poll(fd)
	blocked(t, "could not be put back", fd)
}
