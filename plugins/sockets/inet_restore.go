package sockets

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
)

// bindInet makes a socket and binds it. Port and address are taken from then
// on, but nobody can connect yet.
//
// SO_REUSEADDR is set for TCP whatever the socket had: connections of the
// checkpointed program may still be in TIME-WAIT. listenInet takes it back.
func bindInet(r *inetRecord) (err error) {
	s := r.msg.GetSocket()
	// The caller is in its namespace.
	r.fd, err = unix.Socket(int(s.GetFamily()), int(s.GetType())|unix.SOCK_CLOEXEC, int(s.GetProtocol()))
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	if err := configure(r.fd, s); err != nil {
		return err
	}
	if err := joinGroups(r.fd, r.msg.GetMemberships()); err != nil {
		return err
	}
	if r.msg.GetLocal() == nil {
		return nil
	}
	if err := reuse(r.fd, s, 1); err != nil {
		return err
	}
	local, err := sockaddr(int(s.GetFamily()), r.msg.GetLocal())
	if err != nil {
		return err
	}
	if err := unix.Bind(r.fd, local); err != nil {
		return fmt.Errorf("bind to %s: %w", addrPort(r.msg.GetLocal()), err)
	}
	return nil
}

// configure sets the options of a socket. The filter comes first, for
// SO_LOCK_FILTER is among the options.
func configure(fd int, s *socketspb.Socket) error {
	if err := attachFilter(fd, s.GetFilter()); err != nil {
		return err
	}
	if err := setOptions(fd, s.GetOptions()); err != nil {
		return err
	}
	return setBuffers(fd, s.GetBuffers())
}

// reuse sets SO_REUSEADDR of a TCP socket that does not have it itself.
func reuse(fd int, s *socketspb.Socket, value int) error {
	own := slices.ContainsFunc(s.GetOptions(), func(o *socketspb.Option) bool {
		return o.GetLevel() == unix.SOL_SOCKET && o.GetName() == unix.SO_REUSEADDR
	})
	if own || s.GetType() != unix.SOCK_STREAM {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, value); err != nil {
		return fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	return nil
}

// listenInet completes a socket.
func listenInet(r *inetRecord) error {
	s := r.msg.GetSocket()
	if remote := r.msg.GetRemote(); remote != nil {
		sa, err := sockaddr(int(s.GetFamily()), remote)
		if err != nil {
			return err
		}
		if err := unix.Connect(r.fd, sa); err != nil {
			return fmt.Errorf("connect to %s: %w", addrPort(remote), err)
		}
	}
	if err := refill(r); err != nil {
		return err
	}
	if r.msg.GetListening() {
		if err := unix.Listen(r.fd, int(r.msg.GetBacklog())); err != nil {
			return fmt.Errorf("listen on %s: %w", addrPort(r.msg.GetLocal()), err)
		}
	}
	if r.msg.GetEnded() {
		if err := shutdownSocket(r.fd, shutdownBoth); err != nil {
			return err
		}
	}
	if r.msg.GetLocal() != nil {
		if err := reuse(r.fd, s, 0); err != nil {
			return err
		}
	}
	return finish(r.fd, s)
}
