package sockets

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
)

// States of a TCP connection (net/tcp_states.h).
const (
	stateEstablished = 1
	stateSynSent     = 2
	stateFinWait1    = 4
	stateFinWait2    = 5
	stateClose       = 7
	stateCloseWait   = 8
	stateLastAck     = 9
	stateListen      = 10
	stateClosing     = 11
)

// stateNames are the states that have a peer.
var stateNames = map[uint8]string{
	2: "SYN-SENT", 3: "SYN-RECV", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 6: "TIME-WAIT",
	8: "CLOSE-WAIT", 9: "LAST-ACK", 11: "CLOSING", 12: "NEW-SYN-RECV", 13: "BOUND-INACTIVE",
}

// pollRDHUP is POLLRDHUP, which x/sys has under the name of epoll only.
const pollRDHUP = unix.EPOLLRDHUP

// pollState is what poll(2) says of a socket.
type pollState int16

func (p pollState) has(bits int16) bool { return int16(p)&bits != 0 }

func pollSocket(fd int) (pollState, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | pollRDHUP}}
	for {
		_, err := unix.Poll(p, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("poll: %w", err)
		}
		return pollState(p[0].Revents), nil
	}
}

// examineTCP handles TCP and MPTCP sockets.
func (s *survey) examineTCP(it *item, fd int, sock *socketspb.Socket) error {
	name := protocolName(it.kindOf())
	local, remote, err := inetNames(fd)
	if err != nil {
		return err
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return fmt.Errorf("read TCP_INFO: %w", err)
	}
	msg := &socketspb.Inet{Socket: sock, Local: local}
	switch {
	case info.State == stateListen:
		// For a listener these are the connections that wait, and how many may.
		if info.Unacked > 0 {
			s.block(it, fmt.Sprintf("%s listener %s: %s", name, addrPort(local), waiting(int(info.Unacked))), "accept them, or stop the clients first")
			return nil
		}
		msg.Listening, msg.Backlog = true, info.Sacked
	case info.State != stateClose || remote != nil:
		return s.examineConnection(it, fd, msg, remote, info.State)
	default:
		ok, err := s.examineClosedTCP(it, fd, msg)
		if err != nil || !ok {
			return err
		}
	}
	it.kind, it.msg = kindInet, msg
	return nil
}

// examineClosedTCP handles sockets that have no connection: new ones, and
// those whose connection has ended. It tells whether they can be carried.
func (s *survey) examineClosedTCP(it *item, fd int, msg *socketspb.Inet) (bool, error) {
	name := protocolName(it.kindOf())
	p, err := pollSocket(fd)
	if err != nil {
		return false, err
	}
	queued, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return false, fmt.Errorf("read length of queue: %w", err)
	}
	switch {
	case p.has(unix.POLLERR):
		s.block(it, name+" socket with an error that the program has not seen yet (a connection that failed)", "let the program go on until it has seen it")
		return false, nil
	case queued > 0:
		s.block(it, fmt.Sprintf("%s connection that has ended, with %d bytes that were not read", name, queued), "let the program read them first")
		return false, nil
	case p.has(pollRDHUP):
		// Its address is history: the port may belong to somebody else.
		msg.Ended, msg.Local = true, nil
		msg.Socket.Options = slices.DeleteFunc(msg.Socket.Options, ofConnection)
	}
	return true, nil
}

// ofConnection tells that an option says what a connection has negotiated, or
// how its first packet came (tcp_v4_syn_recv_sock in net/ipv4/tcp_ipv4.c), not
// what was set.
func ofConnection(o *socketspb.Option) bool {
	switch (optionKey{int(o.GetLevel()), int(o.GetName())}) {
	case optionKey{unix.SOL_TCP, unix.TCP_MAXSEG}, optionKey{unix.SOL_TCP, unix.TCP_WINDOW_CLAMP},
		optionKey{unix.SOL_IP, unix.IP_MULTICAST_IF}, optionKey{unix.SOL_IP, unix.IP_MULTICAST_TTL},
		optionKey{unix.SOL_IPV6, unix.IPV6_MULTICAST_IF}, optionKey{unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS},
		optionKey{unix.SOL_SOCKET, unix.SO_INCOMING_CPU}:
		return true
	}
	return false
}

func waiting(n int) string {
	if n == 1 {
		return "1 connection waits to be accepted"
	}
	return fmt.Sprintf("%d connections wait to be accepted", n)
}

// inetNames reads the addresses of both ends; nil for what is not set.
func inetNames(fd int) (local, remote *socketspb.InetAddress, err error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, nil, fmt.Errorf("getsockname: %w", err)
	}
	local = inetAddress(sa)
	sa, err = unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return local, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("getpeername: %w", err)
	}
	return local, inetAddress(sa), nil
}
