package sockets

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
)

// inetAddress turns what getsockname(2) and getpeername(2) return into a
// record; nil if no address and no port are set.
func inetAddress(sa unix.Sockaddr) *socketspb.InetAddress {
	var a *socketspb.InetAddress
	var zero bool
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		a = &socketspb.InetAddress{Ip: sa.Addr[:], Port: uint32(sa.Port)}
		zero = sa.Addr == [4]byte{}
	case *unix.SockaddrInet6:
		a = &socketspb.InetAddress{Ip: sa.Addr[:], Port: uint32(sa.Port), Zone: sa.ZoneId}
		zero = sa.Addr == [16]byte{}
	default:
		return nil
	}
	if zero && a.Port == 0 {
		return nil
	}
	return a
}

// sockaddr turns a record into an address for bind(2) and connect(2).
func sockaddr(family int, a *socketspb.InetAddress) (unix.Sockaddr, error) {
	ip := a.GetIp()
	switch {
	case a.GetPort() > 0xffff:
	case family == unix.AF_INET && len(ip) == 4:
		return &unix.SockaddrInet4{Port: int(a.GetPort()), Addr: [4]byte(ip)}, nil
	case family == unix.AF_INET6 && len(ip) == 16:
		return &unix.SockaddrInet6{Port: int(a.GetPort()), Addr: [16]byte(ip), ZoneId: a.GetZone()}, nil
	}
	return nil, fmt.Errorf("address %x port %d of family %d: %w", ip, a.GetPort(), family, sdk.ErrCorrupt)
}

// addrPort is the address for comparisons and messages. The address that is
// not set is that of a socket that is not bound.
func addrPort(a *socketspb.InetAddress) netip.AddrPort {
	ip, ok := netip.AddrFromSlice(a.GetIp())
	if !ok {
		ip = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(a.GetPort()))
}

// protocolName is how reports call a protocol.
func protocolName(k kindOfSocket) string {
	if k.typ == unix.SOCK_RAW {
		return fmt.Sprintf("raw (protocol %d)", k.protocol)
	}
	switch k.protocol {
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return "ping"
	case unix.IPPROTO_MPTCP:
		return "MPTCP"
	case unix.IPPROTO_UDP:
		return "UDP"
	case unix.IPPROTO_UDPLITE:
		return "UDP-Lite"
	}
	return "TCP"
}
