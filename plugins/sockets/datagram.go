package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
)

const (
	udpHeader = 8
	// maxDatagram is the most that a datagram can have.
	maxDatagram = 65535
)

// peekDatagrams reads what a UDP socket has received and leaves it as it is: with
// SO_PEEK_OFF every peek shows the next one. A datagram without a byte that
// somebody has peeked at before is passed over by the kernel.
func peekDatagrams(fd int) (list []*socketspb.Datagram, err error) {
	old, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	if err != nil {
		return nil, fmt.Errorf("SO_PEEK_OFF: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0); err != nil {
		return nil, fmt.Errorf("SO_PEEK_OFF: %w", err)
	}
	defer func() {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, old))
	}()
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read queue: %w", err)
		}
		list = append(list, &socketspb.Datagram{Data: append([]byte(nil), buf[:n]...), From: inetAddress(from)})
	}
}

// unsendable tells why datagrams could not be put back; empty if they can.
func unsendable(msg *socketspb.Inet, list []*socketspb.Datagram) string {
	for _, o := range msg.GetSocket().GetOptions() {
		switch (optionKey{int(o.GetLevel()), int(o.GetName())}) {
		case optionKey{unix.SOL_SOCKET, unix.SO_BINDTODEVICE}:
			return "it takes datagrams of one device only"
		case optionKey{unix.SOL_UDP, unix.UDP_ENCAP}, optionKey{unix.SOL_UDP, unix.UDP_GRO}:
			return "the kernel changes what it receives"
		}
	}
	local := addrPort(msg.GetLocal()).Addr()
	if local.IsMulticast() || local.IsLinkLocalUnicast() {
		return "of its address"
	}
	for _, d := range list {
		if a := addrPort(d.GetFrom()).Addr(); a.IsLinkLocalUnicast() {
			return "one is from the link-local address " + a.String()
		}
	}
	return ""
}

// refill gives a UDP socket what it had received, in the name of the senders, and
// makes sure that it has arrived.
func refill(r *inetRecord) error {
	if len(r.datagrams) == 0 {
		return nil
	}
	size, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return fmt.Errorf("read size of buffer: %w", err)
	}
	if err := setBuffer(r.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, bigBuffer); err != nil {
		return err
	}
	to, protocol := addrPort(r.msg.GetLocal()), byte(r.msg.GetSocket().GetProtocol())
	if protocol == 0 {
		protocol = unix.IPPROTO_UDP
	}
	for _, d := range r.datagrams {
		from, at := addrPort(d.GetFrom()), to
		if at.Addr().IsUnspecified() {
			at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), to.Port())
			if from.Addr().Is6() {
				at = netip.AddrPortFrom(netip.IPv6Loopback(), to.Port())
			}
		}
		if err := sendRaw(from.Addr(), at.Addr(), protocol, udpOf(protocol, from, at, d.GetData())); err != nil {
			return err
		}
	}
	if err := arrived(r); err != nil {
		return err
	}
	if err := setBuffer(r.fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, uint32(size)); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0); err != nil && !notThere(err) {
		return fmt.Errorf("SO_BUF_LOCK: %w", err)
	}
	return setBuffers(r.fd, r.msg.GetSocket().GetBuffers())
}

// arrived waits until the queue is as it was.
func arrived(r *inetRecord) error {
	for deadline := time.Now().Add(stateTime); ; time.Sleep(time.Millisecond) {
		now, err := peekDatagrams(r.fd)
		if err != nil {
			return err
		}
		same := len(now) == len(r.datagrams)
		for i := 0; same && i < len(now); i++ {
			same = proto.Equal(now[i], r.datagrams[i])
		}
		if same {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("of %d datagrams in its queue %d have arrived, or other ones: a firewall may be in the way", len(r.datagrams), len(now))
		}
	}
}

// udpOf makes a datagram with its checksum (RFC 768). That of UDP-Lite covers all
// of it, and has its length there as well (RFC 3828).
func udpOf(protocol byte, from, to netip.AddrPort, data []byte) []byte {
	d := make([]byte, udpHeader+len(data))
	binary.BigEndian.PutUint16(d, from.Port())
	binary.BigEndian.PutUint16(d[2:], to.Port())
	binary.BigEndian.PutUint16(d[4:], uint16(len(d)))
	copy(d[udpHeader:], data)
	sum := checksum(from.Addr(), to.Addr(), protocol, d)
	if sum == 0 {
		sum = 0xffff // 0 is no checksum
	}
	binary.BigEndian.PutUint16(d[6:], sum)
	return d
}
