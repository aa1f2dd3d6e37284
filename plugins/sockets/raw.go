package sockets

import (
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk/procfs"
)

// examineRaw handles raw sockets (raw(7)). What one has received is a copy of
// packets that nobody would send to it again.
func (s *survey) examineRaw(it *item, fd int, sock *socketspb.Socket) error {
	local, _, err := inetNames(fd)
	if err != nil {
		return err
	}
	p, err := pollSocket(fd)
	if err != nil {
		return err
	}
	name := protocolName(it.kindOf()) + " socket"
	if s.frozen && p.has(unix.POLLIN) && !p.has(pollRDHUP) {
		s.block(it, name+": has packets that the program has not read yet", "try again")
		return nil
	}
	groups, carried, err := s.datagramState(it, fd, name, p)
	if err != nil || !carried {
		return err
	}
	remote, err := rawPeer(it)
	if err != nil {
		return err
	}
	if remote != nil && addrPort(remote).Addr().IsLinkLocalUnicast() {
		s.block(it, name+": is connected to a link-local address, of which the kernel does not tell the interface", "")
		return nil
	}
	// The kernel shows the protocol as the port. Only an address is bound.
	if local != nil {
		local.Port = 0
	}
	if isUnspecified(local) {
		local = nil
	}
	it.kind, it.msg = kindInet, &socketspb.Inet{Socket: sock, Local: local, Remote: remote, Memberships: groups}
	return nil
}

// isPing tells a socket that sends and receives echo requests without rights
// (icmp(7), since Linux 3.0).
func isPing(k kindOfSocket) bool {
	return k.typ == unix.SOCK_DGRAM && (k.protocol == unix.IPPROTO_ICMP || k.protocol == unix.IPPROTO_ICMPV6)
}

// examinePing handles ping sockets. The number of the requests is their port.
func (s *survey) examinePing(it *item, fd int, sock *socketspb.Socket) error {
	local, remote, err := inetNames(fd)
	if err != nil {
		return err
	}
	p, err := pollSocket(fd)
	if err != nil {
		return err
	}
	if s.frozen && p.has(unix.POLLIN) && !p.has(pollRDHUP) {
		s.block(it, "ping socket: has answers that the program has not read yet", "try again")
		return nil
	}
	groups, carried, err := s.datagramState(it, fd, "ping socket", p)
	if err != nil || !carried {
		return err
	}
	it.kind, it.msg = kindInet, &socketspb.Inet{Socket: sock, Local: local, Remote: remote, Memberships: groups}
	return nil
}

// rawPeer finds the address that a socket is connected to. getpeername(2) tells
// none, for it has no port.
func rawPeer(it *item) (*socketspb.InetAddress, error) {
	table := "raw"
	if it.kindOf().family == unix.AF_INET6 {
		table = "raw6"
	}
	var list []procfs.InetSocket
	err := it.network.do(func() (err error) {
		list, err = procfs.InetSockets(table)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, o := range list {
		if ip := o.Remote.Addr(); o.Ino == it.file().Ino && !ip.IsUnspecified() {
			return &socketspb.InetAddress{Ip: ip.AsSlice()}, nil
		}
	}
	return nil, nil
}

func isUnspecified(a *socketspb.InetAddress) bool {
	return a != nil && addrPort(a).Addr().IsUnspecified()
}
