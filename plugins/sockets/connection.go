package sockets

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Flags of a checkpoint.
const (
	tcpEstablished = "tcp-established"
	tcpClose       = "tcp-close"
)

// streamPiece is how much of a queue goes into one record.
const streamPiece = 256 << 10

// savedConnection is a TCP connection that is being saved. The descriptor keeps it
// from being closed when the tasks that have it end.
type savedConnection struct {
	it    *item
	msg   *socketspb.Inet
	fd    int
	reuse int // SO_REUSEADDR
}

func (c *savedConnection) tuple() tuple {
	return tuple{addrPort(c.msg.GetLocal()), addrPort(c.msg.GetRemote())}
}

// String names both ends.
func (c *savedConnection) String() string {
	t := c.tuple()
	return fmt.Sprintf("%s->%s", t.local, t.remote)
}

// examineConnection handles TCP sockets that have a peer.
func (s *survey) examineConnection(it *item, fd int, msg *socketspb.Inet, remote *socketspb.InetAddress, state uint8) error {
	name := protocolName(it.kindOf())
	if remote == nil {
		// getpeername(2) does not tell before the peer has answered.
		if err := it.network.do(func() error { remote = connectingTo(it); return nil }); err != nil {
			return err
		}
	}
	what := "established " + name + " connection"
	if n := stateNames[state]; n != "" {
		what = name + " connection in state " + n
	}
	what = fmt.Sprintf("%s %s->%s", what, addrPort(msg.GetLocal()), addrPort(remote))
	if s.sess.Enabled(tcpClose) {
		msg.Ended, msg.Local = true, nil
		msg.Socket.Options = slices.DeleteFunc(msg.Socket.Options, ofConnection)
		it.kind, it.msg = kindInet, msg
		return nil
	}
	if why := unfit(it, fd, state); why != "" {
		s.block(it, what+": "+why, "end it before the checkpoint, or pass --tcp-close, which gives it up")
		return nil
	}
	if !s.sess.Enabled(tcpEstablished) {
		s.report.Add(it.res, sdk.LevelFlag, what, "--tcp-established carries it, --tcp-close gives it up")
		return nil
	}
	msg.Socket.Options = slices.DeleteFunc(msg.Socket.Options, ofConnection)
	reuse, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	if err != nil {
		return fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	msg.Remote = remote
	msg.Connection = &socketspb.Connection{State: uint32(state)}
	it.kind, it.msg = kindInet, msg
	if !s.frozen {
		return nil
	}
	c := &savedConnection{it: it, msg: msg, reuse: reuse}
	if c.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return fmt.Errorf("keep the connection: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, c)
	return nil
}

// connectingTo is the peer that was asked for a connection.
func connectingTo(it *item) *socketspb.InetAddress {
	for _, table := range []string{"tcp", "tcp6"} {
		socks, err := procfs.InetSockets(table)
		if err != nil {
			continue // this machine lacks the family
		}
		for _, o := range socks {
			if o.Ino == it.file().Ino {
				return &socketspb.InetAddress{Ip: o.Remote.Addr().AsSlice(), Port: uint32(o.Remote.Port())}
			}
		}
	}
	return nil
}

// unfit tells why a connection cannot be carried; empty if it can.
func unfit(it *item, fd int, state uint8) string {
	if it.kindOf().protocol == unix.IPPROTO_MPTCP {
		return "the kernel shows nothing of its subflows"
	}
	switch state {
	case stateEstablished, stateSynSent, stateFinWait1, stateFinWait2, stateCloseWait, stateLastAck, stateClosing:
	default:
		return "its state cannot be rebuilt"
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	if _, err := unix.Poll(p, 0); err == nil && p[0].Revents&unix.POLLPRI != 0 {
		return "urgent data that was not read"
	}
	if p[0].Revents&unix.POLLERR != 0 {
		return "an error that the program has not seen yet"
	}
	ulp := make([]byte, 16)
	if n, err := kern.GetSockopt(fd, unix.SOL_TCP, unix.TCP_ULP, ulp); err == nil && n > 0 && ulp[0] != 0 {
		return "the kernel does its " + unix.ByteSliceToString(ulp)
	}
	return ""
}

// readConnections locks the network and reads all connections. What it holds
// must be given back by p.letGo, whatever it returns.
func (p *plugin) readConnections(s *survey) error {
	if len(s.conns) == 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = s.conns
	var fit []*savedConnection
	for _, c := range s.conns {
		if c.msg.GetConnection().GetState() != stateSynSent {
			fit = append(fit, c)
		}
	}
	start := time.Now()
	var err error
	for n, tuples := range p.tuples() {
		if err := n.holdLock(tuples); err != nil {
			return err
		}
	}
	if p.reader == nil {
		if p.reader, err = newReader(); err != nil {
			return err
		}
	}
	raw, err := p.reader.read(fit)
	if err != nil {
		return err
	}
	p.left = newLockName()
	for i, c := range fit {
		c.take(&raw[i])
	}
	for _, c := range s.conns {
		c.msg.Connection.Lock = p.left
	}
	if !s.sess.Enabled("leave-running") {
		s.report.Note(s.conns[0].it.res, fmt.Sprintf(
			"the table inet %s of nftables keeps the packets of the connections away until the restore", p.left))
	}
	s.sess.Log.Debug("connections read", "count", len(s.conns), "took", time.Since(start))
	return nil
}

// tuples are the connections that are being saved, by their namespace.
func (p *plugin) tuples() map[*network][]tuple {
	out := map[*network][]tuple{}
	for _, c := range p.conns {
		out[c.it.network] = append(out[c.it.network], c.tuple())
	}
	return out
}

// take turns what was read into records.
func (c *savedConnection) take(r *rawConnection) {
	m := c.msg.GetConnection()
	m.State = uint32(r.State)
	m.SendSeq, m.SendLength = r.WriteSeq-r.Unacked, uint32(len(r.Send))
	m.UnsentLength = min(r.Unsent, m.SendLength)
	if fin := r.ourFIN(); fin != 0 && r.Unsent > 0 {
		m.UnsentLength = min(r.Unsent-fin, m.SendLength) // the FIN has not been sent either
	}
	m.ReceiveSeq, m.ReceiveLength = r.ReceiveNext-uint32(len(r.Receive)), uint32(len(r.Receive))
	if peerFIN(r.State) {
		m.ReceiveSeq--
	}
	m.Mss, m.Segment, m.Options, m.Timestamp = r.MSS, r.Segment, uint32(r.Options), r.Timestamp
	m.SendScale, m.ReceiveScale = uint32(r.SendScale), uint32(r.RecvScale)
	m.Window = &socketspb.Window{
		SendWl1: r.Window.SendWL1, Send: r.Window.Send, Max: r.Window.Max,
		Receive: r.Window.Receive, ReceiveWup: r.Window.ReceiveWUP,
	}
	for data := r.Send; len(data) > 0; data = data[min(streamPiece, len(data)):] {
		c.it.streams = append(c.it.streams, &socketspb.Stream{Send: true, Data: data[:min(streamPiece, len(data))]})
	}
	for data := r.Receive; len(data) > 0; data = data[min(streamPiece, len(data)):] {
		c.it.streams = append(c.it.streams, &socketspb.Stream{Data: data[:min(streamPiece, len(data))]})
	}
}

// letGo gives back what was held for connections: their descriptors, the locks,
// the reader. The connections go on.
func (p *plugin) letGo() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		closeFD(&c.fd)
	}
	err := errors.Join(p.nets.leave(), p.reader.close())
	p.conns, p.reader = nil, nil
	return err
}

// giveUp closes the connections of a tree that has been ended, without a word to
// the peers, and leaves them locked for the restore. In repair mode close(2)
// sends nothing (tcp_disconnect).
func (p *plugin) giveUp() error {
	p.mu.Lock()
	var err error
	for n, tuples := range p.tuples() {
		err = errors.Join(err, n.leaveLock(p.left, tuples))
	}
	for _, c := range p.conns {
		if c.msg.GetConnection().GetState() == stateSynSent {
			continue // resets nothing that the peer knows
		}
		if rerr := setTCP(c.fd, unix.TCP_REPAIR, repairOn); rerr != nil {
			err = errors.Join(err, fmt.Errorf("close connection %s silently: %w", c, rerr))
		}
	}
	p.mu.Unlock()
	return errors.Join(err, p.letGo())
}
