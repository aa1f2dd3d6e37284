package sockets

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
)

// examineUDP handles UDP and UDP-Lite sockets. One that is connected has no peer
// that knows: connect(2) only says where datagrams go.
func (s *survey) examineUDP(it *item, fd int, sock *socketspb.Socket) error {
	local, remote, err := inetNames(fd)
	if err != nil {
		return err
	}
	p, err := pollSocket(fd)
	if err != nil {
		return err
	}
	name := protocolName(it.kindOf()) + " socket " + addrPort(local).String()
	queued, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return fmt.Errorf("read length of queue: %w", err)
	}
	// An empty datagram shows in poll only.
	waiting := queued > 0 || p.has(unix.POLLIN) && !p.has(pollRDHUP|unix.POLLERR)
	if waiting && p.has(unix.POLLERR) {
		s.block(it, name+": datagrams behind an error that the program has not seen yet", "let the program read them first")
		return nil
	}
	if corked, _ := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_CORK); corked != 0 {
		s.block(it, name+": is corked (UDP_CORK), what it holds cannot be read", "")
		return nil
	}
	groups, carried, err := s.datagramState(it, fd, name, p)
	if err != nil || !carried {
		return err
	}
	msg := &socketspb.Inet{Socket: sock, Local: local, Remote: remote, Memberships: groups}
	if waiting && s.frozen {
		list, err := peekDatagrams(fd)
		if err != nil {
			return err
		}
		if why := unsendable(msg, list); why != "" {
			s.block(it, fmt.Sprintf("%s: datagrams that were not read and could not be put back: %s", name, why), "let the program read them first")
			return nil
		}
		it.datagrams = list
	}
	it.kind, it.msg = kindInet, msg
	return nil
}

// datagramState reads what UDP and raw sockets have, and tells whether it can be
// carried.
func (s *survey) datagramState(it *item, fd int, name string, p pollState) (groups []*socketspb.Membership, carried bool, err error) {
	unsent, err := unsentBytes(fd)
	if err != nil {
		return nil, false, err
	}
	if unsent > 0 {
		s.block(it, fmt.Sprintf("%s: %d bytes that were not sent (MSG_MORE, or a slow device)", name, unsent), "")
		return nil, false, nil
	}
	if p.has(pollRDHUP) {
		s.block(it, name+": was shut down", "")
		return nil, false, nil
	}
	if p.has(unix.POLLERR) {
		s.report.Note(it.res, name+": an error that the program has not seen yet will be lost")
	}
	groups, err = s.memberships(it, fd)
	return groups, err == nil, err
}

// unsentBytes tells what is in a socket's send queue. What is on its way
// through a device gets a moment to leave.
func unsentBytes(fd int) (n int, err error) {
	for range 5 {
		n, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		if errors.Is(err, unix.ENOTTY) {
			return 0, nil // a ping socket, which has no cork
		}
		if err != nil {
			return 0, fmt.Errorf("read length of send queue: %w", err)
		}
		if n == 0 {
			return 0, nil
		}
		time.Sleep(time.Millisecond)
	}
	return n, nil
}

// isUDP tells whether a socket of an image is one of UDP or UDP-Lite.
func isUDP(s *socketspb.Socket) bool {
	switch s.GetProtocol() {
	case 0, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE:
		return s.GetType() == unix.SOCK_DGRAM
	}
	return false
}
