package sockets

import (
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/sdktest"
)

// linkRequest asks for the loopback device, or for all devices.
func linkRequest(flags uint16, index uint32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_GETLINK)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = append(b, make([]byte, 8+4)...)
	b = binary.NativeEndian.AppendUint32(b, index)
	return append(b, make([]byte, 8)...)
}

// answer sends a request and returns the first answer's type and port.
func answer(t *testing.T, fd int) (typ uint16, port uint32) {
	t.Helper()
	if err := unix.Sendto(fd, linkRequest(0, 1), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	if err := poll(fd); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil || n < unix.SizeofNlMsghdr {
		t.Fatalf("%d bytes, %v", n, err)
	}
	return binary.NativeEndian.Uint16(buf[4:]), binary.NativeEndian.Uint32(buf[12:])
}

// TestNetlink: number, groups beyond 32, options, and an answer afterwards.
func TestNetlink(t *testing.T) {
	const port = 0x7e57_0001
	fd := socket(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port, Groups: 1}); err != nil {
		t.Fatal(err)
	}
	groups := []uint32{1, 5, unix.RTNLGRP_IPV4_MROUTE_R, 33}
	for _, g := range groups[1:] {
		set(t, fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g))
	}
	slices.Sort(groups)
	set(t, fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	set(t, fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1)
	fresh := socket(t, unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_KOBJECT_UEVENT)
	trip := fdtest.Dump(t, New(), nil, fd, fresh)
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 1 || !strings.Contains(b[0], "its number 2119630849 is in use") {
		t.Errorf("findings %q", b)
	}
	trip.Restore()
	got, err := netlinkGroups(fd)
	if err != nil || !slices.Equal(got, groups) {
		t.Errorf("groups %v, %v; want %v", got, err, groups)
	}
	for _, o := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_NO_ENOBUFS} {
		if get(t, fd, unix.SOL_NETLINK, o) != 1 {
			t.Errorf("option %d is off", o)
		}
	}
	if typ, to := answer(t, fd); typ != unix.RTM_NEWLINK || to != port {
		t.Errorf("answer of type %d to %#x", typ, to)
	}
	if sa, err := unix.Getsockname(fresh); err != nil || sa.(*unix.SockaddrNetlink).Pid != 0 {
		t.Errorf("a socket that was not bound: %+v, %v", sa, err)
	}
}

func TestNetlinkRefused(t *testing.T) {
	fd := socket(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	defer unix.Close(fd)
	kernel := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := unix.Sendto(fd, linkRequest(0, 1), 0, kernel); err != nil {
		t.Fatal(err)
	}
	blocked(t, "netlink socket (route): messages that the program has not read yet", fd)
	filter := socket(t, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	defer unix.Close(filter)
	blocked(t, "netlink socket (protocol 12): what the kernel keeps for it cannot be read", filter)
	const table = `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 0   0          00000000 0        0        0     2        0        5017
0000000000000000 0   4711       00000000 0        0        1     2        0        8001
`
	for ino, want := range map[uint64]bool{5017: false, 8001: true, 1: false} {
		if netlinkDumps([]byte(table), ino) != want {
			t.Errorf("socket %d is in a list: want %v", ino, want)
		}
	}
}

// TestUnixBacklog: connections that nobody has accepted yet are there again, in
// their order.
func TestUnixBacklog(t *testing.T) {
	for name, path := range map[string]string{"path": filepath.Join(t.TempDir(), "l"), "abstract": "\x00firn backlog"} {
		t.Run(name, func(t *testing.T) {
			l := unixSocketOf(t, unix.SOCK_STREAM, path)
			listen(t, l, 5)
			first, second := unixSocketOf(t, unix.SOCK_STREAM, ""), unixSocketOf(t, unix.SOCK_STREAM, "\x00firn client")
			for _, fd := range []int{first, second} {
				if err := kern.ConnectUnix(fd, []byte(path)); err != nil {
					t.Fatal(err)
				}
			}
			if err := unix.Shutdown(second, unix.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			set(t, first, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
			fdtest.Dump(t, New(), nil, second, l, first).Restore()
			mustSend(t, first, "first")
			for _, c := range []struct{ name, text string }{{"", "first"}, {"\x00firn client", "EOF"}} {
				server, _, err := unix.Accept(l)
				if err != nil {
					t.Fatal(err)
				}
				got, err := kern.UnixPeerName(server)
				if err != nil || string(got) != c.name {
					t.Errorf("client %q, %v; want %q", got, err, c.name)
				}
				want(t, "server", receive(t, server), c.text)
				unix.Close(server)
			}
		})
	}
}
