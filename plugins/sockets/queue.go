package sockets

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
)

const (
	// maxStreamData is the largest piece of a stream in one record.
	maxStreamData = 64 << 10
	// maxControl has room for the most descriptors that a message can carry
	// (SCM_MAX_FD, 253), credentials and a security label.
	maxControl = 4096
)

// queued is one message of a receive queue, or a run of a stream.
type queued struct {
	data []byte
	// from is the name of the sender, in the form of [goName].
	from string
	// sender is who sent it, if the socket passes that and there is somebody.
	sender *unix.Ucred
	// rights are duplicates of the descriptors that travel with it.
	rights []int
}

// examineQueue reads what a unix socket has received. It tells whether it can
// be carried.
func (s *survey) examineQueue(it *item, fd int, msg *socketspb.Unix) (bool, error) {
	if waits, err := s.passesMore(fd, msg.GetSocket()); err != nil {
		return false, err
	} else if waits {
		s.block(it, "unix socket: messages in its queue carry security labels or pidfds (SO_PASSSEC, SO_PASSPIDFD)", "let the program receive them first")
		return false, nil
	}
	msgs, err := peekQueue(fd, it.file().Socket.Type, msg.GetShutdown())
	for _, m := range msgs {
		it.rights = append(it.rights, m.rights...)
	}
	if errors.Is(err, sdk.ErrUnsupported) {
		s.block(it, "unix socket: "+err.Error(), "")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, m := range msgs {
		if len(m.data) > hbuf.MaxRecord-1024-8*len(m.rights) {
			s.block(it, fmt.Sprintf("unix socket: a message of %d bytes in its queue is too long", len(m.data)), "")
			return false, nil
		}
		rec := &socketspb.Message{Data: m.data, Credentials: s.sender(it, m.sender)}
		// Of a connection, the sender is the peer.
		if m.from != "" && it.file().Socket.Type == unix.SOCK_DGRAM {
			rec.Sender = s.unix.byName(m.from, it)
			if rec.Sender == 0 {
				s.block(it, "unix socket: a datagram in its queue is from "+m.from+", which is no socket of the tree", "let the program receive it first")
				return false, nil
			}
		}
		for it.file().Socket.Type == unix.SOCK_STREAM && len(rec.Data) > maxStreamData && len(m.rights) == 0 {
			it.queue = append(it.queue, &socketspb.Message{Data: rec.Data[:maxStreamData], Credentials: rec.Credentials})
			rec.Data = rec.Data[maxStreamData:]
		}
		it.queue = append(it.queue, rec)
		if len(m.rights) > 0 {
			it.carrying = append(it.carrying, carrying{rec, m.rights})
		}
	}
	return true, nil
}

// passesMore tells whether there are messages for a receiver that asked to be told
// more of senders than who they are.
func (s *survey) passesMore(fd int, sock *socketspb.Socket) (bool, error) {
	more := slices.ContainsFunc(sock.GetOptions(), func(o *socketspb.Option) bool {
		return o.GetLevel() == unix.SOL_SOCKET && (o.GetName() == unix.SO_PASSSEC || o.GetName() == soPassPIDFD)
	})
	if !more {
		return false, nil
	}
	p, err := pollSocket(fd)
	return p.has(unix.POLLIN) && !p.has(unix.POLLHUP|pollRDHUP), err
}

// peekQueue reads the receive queue of a socket and leaves it as it is. A
// single peek shows all of a stream. Messages are reached one after the other
// with SO_PEEK_OFF, which is put back afterwards; it matters only to programs
// that peek themselves.
//
// A message without a byte is peeked at once: the kernel passes over one that
// was peeked at before.
func peekQueue(fd, typ int, shutdown uint32) ([]queued, error) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return nil, fmt.Errorf("read length of queue: %w", err)
	}
	p, err := pollSocket(fd)
	if err != nil {
		return nil, err
	}
	// Peeking would take the error away from the program, except from a stream
	// that has data.
	if p.has(unix.POLLERR) && typ != unix.SOCK_STREAM && (n > 0 || typ == unix.SOCK_DGRAM) {
		return nil, fmt.Errorf("an error that the program has not seen yet: %w", sdk.ErrUnsupported)
	}
	if n == 0 && (typ == unix.SOCK_STREAM || p.has(unix.POLLERR)) || !p.has(unix.POLLIN) {
		return nil, nil
	}
	q := &peeker{fd: fd, typ: typ, left: n, ended: shutdown&shutdownRead != 0, buf: make([]byte, 4096)}
	if typ == unix.SOCK_STREAM {
		m, err := q.peek(-1)
		if err != nil || m == nil {
			return nil, err
		}
		if len(m.data) == n && len(m.rights) == 0 {
			return []queued{*m}, nil
		}
		closeAll(m.rights)
	}
	old, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	if err != nil {
		return nil, fmt.Errorf("read SO_PEEK_OFF: %w", err)
	}
	out, err := q.all()
	if back := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, old); back != nil {
		err = errors.Join(err, fmt.Errorf("put back SO_PEEK_OFF: %w", back))
	}
	return out, err
}

// peeker reads one queue.
type peeker struct {
	fd, typ int
	left    int  // bytes of the queue that were not seen yet; not for datagrams
	ended   bool // nothing will be received any more: an empty queue reads as end-of-file
	buf     []byte
	control [maxControl]byte
}

// all peeks from the first message to the last.
func (q *peeker) all() (out []queued, err error) {
	for off := 0; ; {
		m, err := q.peek(off)
		if err != nil {
			return out, err
		}
		if m == nil || len(m.data) == 0 && q.left <= 0 && q.ended {
			break
		}
		if q.typ == unix.SOCK_STREAM && len(m.rights) > 0 && len(m.data) > 1 {
			before, err := q.before(off, len(m.data))
			if err != nil {
				closeAll(m.rights)
				return out, err
			}
			if before > 0 {
				out = append(out, queued{data: m.data[:before], sender: m.sender})
			}
			out = append(out, queued{data: m.data[before:], rights: m.rights, sender: m.sender})
		} else {
			out = append(out, *m)
		}
		off += len(m.data)
		q.left -= len(m.data)
		if q.typ == unix.SOCK_STREAM && (q.left <= 0 || len(m.data) == 0) {
			break
		}
	}
	if q.typ != unix.SOCK_DGRAM && q.left != 0 {
		return out, fmt.Errorf("%d bytes of its queue cannot be read without taking them out: %w", q.left, sdk.ErrUnsupported)
	}
	return out, nil
}

// before finds out how much of a piece of a stream came before what was written
// with descriptors, which ends the piece. The kernel copies one write after the
// other and stops at the one that it cannot copy as a whole
// (unix_stream_read_generic in net/unix/af_unix.c), and the last byte has no place
// here.
func (q *peeker) before(off, size int) (_ int, err error) {
	nowhere, err := unix.Mmap(-1, 0, 1, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, fmt.Errorf("reserve a page: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(nowhere)) }()
	if len(q.buf) < size {
		q.buf = make([]byte, size)
	}
	for {
		if err := unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, off); err != nil {
			return 0, fmt.Errorf("set SO_PEEK_OFF: %w", err)
		}
		n, _, _, _, err := unix.RecvmsgBuffers(q.fd, [][]byte{q.buf[:size-1], nowhere}, nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EFAULT):
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("peek: %w", err)
		case n >= size:
			return 0, fmt.Errorf("%d bytes came with descriptors, and the kernel does not tell which: %w", n, sdk.ErrUnsupported)
		}
		return n, nil
	}
}

// peek peeks at one message, or at all of a stream up to a change of sender or
// a message with descriptors: at the first one if off is negative, else off
// bytes further. It returns nil if there is nothing.
func (q *peeker) peek(off int) (*queued, error) {
	for {
		if off >= 0 {
			// Every peek moves it on.
			if err := unix.SetsockoptInt(q.fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, off); err != nil {
				return nil, fmt.Errorf("set SO_PEEK_OFF: %w", err)
			}
		}
		n, m, err := peekInto(q.fd, q.buf, q.control[:])
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTCONN):
			return nil, nil // empty, or not connected
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("peek: %w", err)
		}
		// A message says how long it is (MSG_TRUNC); a stream that fills the
		// buffer may have more.
		if want := max(n, q.left); (n > len(q.buf) || n == len(q.buf) && q.typ == unix.SOCK_STREAM) && want >= len(q.buf) {
			closeAll(m.rights)
			q.buf = make([]byte, want+1)
			continue
		}
		m.data = bytes.Clone(q.buf[:min(n, len(q.buf))])
		return m, nil
	}
}

// peekInto is one recvmsg(2).
func peekInto(fd int, buf, control []byte) (int, *queued, error) {
	n, oobn, flags, from, err := unix.Recvmsg(fd, buf, control, unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_TRUNC|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, nil, err
	}
	m := &queued{from: goName(from)}
	cmsgs, err := unix.ParseSocketControlMessage(control[:oobn])
	if err != nil {
		return 0, nil, err
	}
	for i := range cmsgs {
		if fds, err := unix.ParseUnixRights(&cmsgs[i]); err == nil { // else it is another kind
			m.rights = append(m.rights, fds...)
		}
		if c, err := unix.ParseUnixCredentials(&cmsgs[i]); err == nil && c.Pid != 0 {
			m.sender = c
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		closeAll(m.rights)
		return 0, nil, fmt.Errorf("descriptors in its queue cannot be received here: %w", sdk.ErrUnsupported)
	}
	return n, m, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// goName is the name of a sender as x/sys gives it, with '@' for a leading
// zero byte.
func goName(sa unix.Sockaddr) string {
	if u, ok := sa.(*unix.SockaddrUnix); ok {
		return u.Name
	}
	return ""
}

// byName finds the socket of the tree and of the receiver's type that has a
// name; 0 if there is none, or if several cannot be told apart.
func (t *unixTable) byName(name string, receiver *item) uint64 {
	var found uint64
	for ino, it := range t.tree {
		s := t.all[ino]
		if s == nil || len(s.name) == 0 || it.file().Socket.Type != receiver.file().Socket.Type {
			continue
		}
		n := string(s.name)
		if n[0] == 0 {
			n = "@" + n[1:]
		}
		if n != name {
			continue
		}
		if found != 0 {
			return 0
		}
		found = it.res.Object
	}
	return found
}

// checkSenders reports datagrams that nobody could send again: one half of a
// pair without names takes them from the other half only.
func (s *survey) checkSenders() {
	byObject := map[uint64]*socketspb.Unix{}
	for i := range s.items {
		if m, ok := s.items[i].msg.(*socketspb.Unix); ok {
			byObject[s.items[i].res.Object] = m
		}
	}
	for i := range s.items {
		it := &s.items[i]
		m := byObject[it.res.Object]
		if m == nil || !m.GetOrphan() && !isPair(it.res.Object, m, byObject[m.GetPeer()]) {
			continue
		}
		for _, q := range it.queue {
			if q.GetSender() != 0 && q.GetSender() != m.GetPeer() || q.GetSender() != 0 && m.GetOrphan() {
				s.block(it, "unix socket: a datagram in its queue was sent before it was connected", "let the program receive it first")
				break
			}
		}
	}
}

// isPair tells whether two sockets are made by socketpair(2) in a restore:
// those that are connected to each other, but for datagram sockets that both
// have names, which connect(2) by name.
func isPair(object uint64, a, b *socketspb.Unix) bool {
	if b == nil || b.GetPeer() != object {
		return false
	}
	return a.GetSocket().GetType() != unix.SOCK_DGRAM || len(a.GetName()) == 0 || len(b.GetName()) == 0
}
