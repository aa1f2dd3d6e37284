package sockets

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Flags of a TCP segment.
const (
	flagFIN = 0x01
	flagACK = 0x10
)

const (
	ipv4Header = 20
	ipv6Header = 40
	tcpHeader  = 20
	// segmentWindow is the window of a segment: what was known is set before.
	segmentWindow = 0xffff
)

// sendSegment sends an empty TCP segment to a socket of this machine, in the name
// of its peer. It has the mark that passes the lock.
func sendSegment(from, to netip.AddrPort, seq, ack uint32, flags byte) error {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("make raw socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, lockMark); err != nil {
		return fmt.Errorf("mark packets: %w", err)
	}
	var packet []byte
	var address unix.Sockaddr
	if family == unix.AF_INET {
		packet = append(packet, ipv4Of(from.Addr(), to.Addr(), tcpHeader)...)
		address = &unix.SockaddrInet4{Addr: to.Addr().As4()}
	} else {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_HDRINCL, 1); err != nil {
			return fmt.Errorf("IPV6_HDRINCL: %w", err)
		}
		packet = append(packet, ipv6Of(from.Addr(), to.Addr(), tcpHeader)...)
		address = &unix.SockaddrInet6{Addr: to.Addr().As16()}
	}
	packet = append(packet, tcpOf(from, to, seq, ack, flags)...)
	if err := unix.Sendto(fd, packet, 0, address); err != nil {
		return fmt.Errorf("send segment: %w", err)
	}
	return nil
}

// ipv4Of makes a header; the kernel fills in its checksum (raw(7)).
func ipv4Of(from, to netip.Addr, length int) []byte {
	h := make([]byte, ipv4Header)
	h[0] = 4<<4 | ipv4Header/4
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Header+length))
	h[8], h[9] = 64, unix.IPPROTO_TCP
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	return h
}

func ipv6Of(from, to netip.Addr, length int) []byte {
	h := make([]byte, ipv6Header)
	h[0] = 6 << 4
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	h[6], h[7] = unix.IPPROTO_TCP, 64
	copy(h[8:], from.AsSlice())
	copy(h[24:], to.AsSlice())
	return h
}

// tcpOf makes a segment without options and data, with its checksum (RFC 9293,
// 3.1).
func tcpOf(from, to netip.AddrPort, seq, ack uint32, flags byte) []byte {
	s := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(s, from.Port())
	binary.BigEndian.PutUint16(s[2:], to.Port())
	binary.BigEndian.PutUint32(s[4:], seq)
	binary.BigEndian.PutUint32(s[8:], ack)
	s[12], s[13] = tcpHeader/4<<4, flags
	binary.BigEndian.PutUint16(s[14:], segmentWindow)
	sum := uint32(unix.IPPROTO_TCP + tcpHeader)
	for _, b := range [][]byte{from.Addr().AsSlice(), to.Addr().AsSlice(), s} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(s[16:], ^uint16(sum))
	return s
}
