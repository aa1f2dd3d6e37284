package sockets

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// bigBuffer is a send buffer that holds whatever a queue had: the messages of
// many writes take less room than those of one.
const bigBuffer = 1 << 30

// fill sends a socket what it had received.
func (u *unixRestore) fill(r *unixRecord) error {
	if len(r.queue) == 0 {
		return nil
	}
	senders := map[int]bool{}
	stranger := -1
	defer func() { closeFD(&stranger) }()
	for _, m := range r.queue {
		fd, addressed, err := u.sender(r, m, &stranger)
		if err != nil {
			return err
		}
		if !senders[fd] {
			restore, err := enlarge(fd)
			if err != nil {
				return err
			}
			defer restore()
			senders[fd] = true
		}
		var to []byte
		if addressed {
			to = r.address()
		}
		control, done, err := u.control(m)
		if err != nil {
			return err
		}
		err = send(fd, m.GetData(), control, to)
		done()
		if err != nil {
			return fmt.Errorf("send %d bytes and %d descriptors: %w", len(m.GetData()), len(m.GetRights()), err)
		}
	}
	return nil
}

// sender finds the socket from which a message came: the other end of a
// connection, a socket of the tree, or one that nobody can name.
func (u *unixRestore) sender(r *unixRecord, m *socketspb.Message, stranger *int) (fd int, addressed bool, err error) {
	if ghost, ok := u.ghosts[r.object]; ok && (!r.dgram() || m.GetSender() == 0) {
		return ghost, false, nil
	}
	peer := u.im.byObject[r.msg.GetPeer()]
	if peer != nil && isPair(r.object, r.msg, peer.msg) {
		if m.GetSender() != 0 && m.GetSender() != peer.object {
			return -1, false, corrupt(kindMessage, r.object, "from %d, which is not its peer", m.GetSender())
		}
		return peer.fd, false, nil
	}
	if !r.dgram() || len(r.address()) == 0 {
		return -1, false, corrupt(kindMessage, r.object, "nobody can send to it")
	}
	if m.GetSender() != 0 {
		from := u.im.byObject[m.GetSender()]
		if from == nil || !from.dgram() {
			return -1, false, corrupt(kindMessage, r.object, "from %d, which is no socket of the image", m.GetSender())
		}
		return from.fd, true, nil
	}
	if *stranger < 0 {
		if *stranger, err = r.network.socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0); err != nil {
			return -1, false, fmt.Errorf("sender: %w", err)
		}
	}
	return *stranger, true, nil
}

// enlarge makes room in a send buffer. The function that it returns puts the
// old size back.
func enlarge(fd int) (restore func(), err error) {
	size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return nil, fmt.Errorf("read size of buffer: %w", err)
	}
	lock, lockErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK)
	if err := setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, bigBuffer); err != nil {
		return nil, err
	}
	return func() {
		// Both worked a moment ago with other values.
		_ = setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, uint32(size))
		if lockErr == nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, lock)
		}
	}, nil
}

// send sends one message, or all of a piece of a stream. What control has goes with
// the first byte.
func send(fd int, data, control, to []byte) error {
	var addr unix.Sockaddr
	if len(to) > 0 {
		addr = &unix.SockaddrUnix{Name: string(to)}
	}
	const flags = unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
	for {
		n, err := unix.SendmsgN(fd, data, control, addr, flags)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		control = nil
		if data = data[min(n, len(data)):]; len(data) == 0 {
			return nil
		}
		if n == 0 {
			return sdk.ErrUnsupported
		}
	}
}

// inUse tells whether an abstract name is taken.
func (n *network) inUse(typ int, name []byte) (bool, error) {
	fd, err := n.socket(unix.AF_UNIX, typ, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	err = kern.BindUnix(fd, name)
	if errors.Is(err, unix.EADDRINUSE) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("bind to %s: %w", printName(name), err)
	}
	return false, nil
}
