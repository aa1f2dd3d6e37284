package sockets

import (
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
	// What is queued is refused, also if it is empty.
	for _, data := range []string{"x", ""} {
		if _, err := unix.Write(client, []byte(data)); err != nil {
			t.Fatal(err)
		}
		poll(server)
		blocked(t, fmt.Sprintf("UDP socket %s: datagrams that were not read", addr), server)
		unix.Recvfrom(server, buf, 0)
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
