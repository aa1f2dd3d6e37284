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
)

// sendSegment sends an empty TCP segment to a socket of this machine, in the name
// of its peer.
func sendSegment(from, to netip.AddrPort, s segment) error {
	return sendRaw(from.Addr(), to.Addr(), unix.IPPROTO_TCP, tcpOf(from, to, s))
}

// segment is what matters of a TCP segment.
type segment struct {
	seq, ack uint32
	flags    byte
	window   uint16 // as in the header: scaled
}

// sendRaw sends a packet to an address of this machine, in the name of another one.
// It has the mark that passes the lock.
func sendRaw(from, to netip.Addr, protocol byte, payload []byte) error {
	family := unix.AF_INET
	if to.Is6() {
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
		packet = ipv4Of(from, to, protocol, len(payload))
		address = &unix.SockaddrInet4{Addr: to.As4()}
	} else {
		if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_HDRINCL, 1); err != nil {
			return fmt.Errorf("IPV6_HDRINCL: %w", err)
		}
		packet = ipv6Of(from, to, protocol, len(payload))
		address = &unix.SockaddrInet6{Addr: to.As16()}
	}
	if err := unix.Sendto(fd, append(packet, payload...), 0, address); err != nil {
		return fmt.Errorf("send packet: %w", err)
	}
	return nil
}

// ipv4Of makes a header; the kernel fills in its checksum (raw(7)).
func ipv4Of(from, to netip.Addr, protocol byte, length int) []byte {
	h := make([]byte, ipv4Header)
	h[0] = 4<<4 | ipv4Header/4
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Header+length))
	h[8], h[9] = 64, protocol
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	return h
}

func ipv6Of(from, to netip.Addr, protocol byte, length int) []byte {
	h := make([]byte, ipv6Header)
	h[0] = 6 << 4
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	h[6], h[7] = protocol, 64
	copy(h[8:], from.AsSlice())
	copy(h[24:], to.AsSlice())
	return h
}

// tcpOf makes a segment without options and data, with its checksum (RFC 9293,
// 3.1).
func tcpOf(from, to netip.AddrPort, g segment) []byte {
	s := make([]byte, tcpHeader)
	binary.BigEndian.PutUint16(s, from.Port())
	binary.BigEndian.PutUint16(s[2:], to.Port())
	binary.BigEndian.PutUint32(s[4:], g.seq)
	binary.BigEndian.PutUint32(s[8:], g.ack)
	s[12], s[13] = tcpHeader/4<<4, g.flags
	binary.BigEndian.PutUint16(s[14:], g.window)
	binary.BigEndian.PutUint16(s[16:], checksum(from.Addr(), to.Addr(), unix.IPPROTO_TCP, s))
	return s
}

// checksum is that of the Internet protocols, with the pseudo header of IP (RFC
// 9293, 3.1; RFC 8200, 8.1). The field for it in the payload is 0.
func checksum(from, to netip.Addr, protocol byte, payload []byte) uint16 {
	sum := uint32(protocol) + uint32(len(payload))
	for _, b := range [][]byte{from.AsSlice(), to.AsSlice(), payload} {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 != 0 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
