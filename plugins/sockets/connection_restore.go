package sockets

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk/procfs"
)

// restored is a connection that is being rebuilt. Until it goes live it is in
// repair mode: it sends nothing, and closing it tells the peer nothing.
type restored struct {
	fd      int
	msg     *socketspb.Inet
	network *network
	// unsent are the bytes that were in the send queue only.
	unsent []byte
	// reuse is SO_REUSEADDR, buffers are the sizes of a socket whose sizes were
	// the usual ones.
	reuse   int
	buffers [2]int
	live    bool
}

func (c *restored) state() uint8 { return uint8(c.msg.GetConnection().GetState()) }

func (c *restored) tuple() tuple {
	return tuple{addrPort(c.msg.GetLocal()), addrPort(c.msg.GetRemote())}
}

func (c *restored) String() string {
	t := c.tuple()
	return fmt.Sprintf("%s->%s", t.local, t.remote)
}

// restoreConnections rebuilds connections up to the moment when they go live.
func (p *plugin) restoreConnections(im *image) error {
	tuples := map[*network][]tuple{}
	for _, r := range im.inet {
		if r.msg.GetConnection() != nil {
			tuples[r.network] = append(tuples[r.network], (&restored{msg: r.msg}).tuple())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, list := range tuples {
		if err := n.holdLock(list); err != nil {
			return err
		}
	}
	for _, r := range im.inet {
		if r.msg.GetConnection() == nil {
			continue
		}
		c, err := restoreConnection(r)
		if err != nil {
			return fmt.Errorf("restore connection %s of socket %d: %w", (&restored{msg: r.msg}), r.object, err)
		}
		p.restored = append(p.restored, c)
	}
	return nil
}

// restoreConnection rebuilds one. The order is the kernel's: numbers can be set
// before connect(2) only, what was negotiated after it, and the windows at last.
func restoreConnection(r *inetRecord) (*restored, error) {
	s, m := r.msg.GetSocket(), r.msg.GetConnection()
	c := &restored{msg: r.msg, network: r.network}
	var err error
	if r.fd, err = r.network.socket(int(s.GetFamily()), unix.SOCK_STREAM, unix.IPPROTO_TCP); err != nil {
		return nil, err
	}
	c.fd = r.fd
	for i, name := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		if c.buffers[i], err = unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, name); err != nil {
			return nil, fmt.Errorf("read size of buffer: %w", err)
		}
	}
	if err := configure(c.fd, s); err != nil {
		return nil, err
	}
	if c.reuse, err = unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR); err != nil {
		return nil, fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	if err := c.bind(s, m); err != nil {
		return nil, err
	}
	if c.state() == stateSynSent {
		return c, finish(c.fd, s)
	}
	if err := c.negotiated(m); err != nil {
		return nil, err
	}
	if err := c.fill(r); err != nil {
		return nil, err
	}
	if err := c.bringToState(); err != nil {
		return nil, err
	}
	// The peer's FIN is within the window, and the packets just now had others.
	w := m.GetWindow()
	window := repairWindow{w.GetSendWl1(), w.GetSend(), w.GetMax(), w.GetReceive(), w.GetReceiveWup()}
	if err := setStruct(c.fd, unix.TCP_REPAIR_WINDOW, window); err != nil {
		return nil, fmt.Errorf("set windows: %w", err)
	}
	return c, finish(c.fd, s)
}

// bind binds the socket and connects it, in repair mode: no packet is sent.
// Repair mode is also what lets it share the port with a listener.
func (c *restored) bind(s *socketspb.Socket, m *socketspb.Connection) error {
	local, err := sockaddr(int(s.GetFamily()), c.msg.GetLocal())
	if err != nil {
		return err
	}
	remote, err := sockaddr(int(s.GetFamily()), c.msg.GetRemote())
	if err != nil {
		return err
	}
	if err := setTCP(c.fd, unix.TCP_REPAIR, repairOn); err != nil {
		return fmt.Errorf("TCP_REPAIR: %w", err)
	}
	if err := unix.Bind(c.fd, local); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if c.state() == stateSynSent {
		return nil
	}
	sendSeq := m.GetSendSeq()
	if c.state() == stateFinWait2 {
		sendSeq-- // the FIN was acknowledged, and is sent again
	}
	for _, q := range []struct {
		queue int
		seq   uint32
	}{{sendQueue, sendSeq}, {receiveQueue, m.GetReceiveSeq()}} {
		if err := setTCP(c.fd, unix.TCP_REPAIR_QUEUE, q.queue); err != nil {
			return fmt.Errorf("TCP_REPAIR_QUEUE: %w", err)
		}
		if err := setTCP(c.fd, unix.TCP_QUEUE_SEQ, int(int32(q.seq))); err != nil {
			return fmt.Errorf("TCP_QUEUE_SEQ: %w", err)
		}
	}
	// connect(2) computes the size of segments, from this; what is set later
	// changes it only when the route does (tcp_connect_init, tcp_current_mss). It
	// must not be more than half of the largest window that the peer has had, or
	// the sender waits for a timer before every segment.
	segment := m.GetSegment()
	if m.GetOptions()&infoTimestamps != 0 {
		segment += timestampLength
	}
	if err := setTCP(c.fd, unix.TCP_MAXSEG, int(max(minUserMSS, min(segment, maxUserMSS)))); err != nil {
		return fmt.Errorf("TCP_MAXSEG: %w", err)
	}
	if err := unix.Connect(c.fd, remote); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if err := setTCP(c.fd, unix.TCP_MAXSEG, 0); err != nil {
		return fmt.Errorf("TCP_MAXSEG: %w", err)
	}
	return nil
}

const (
	// Limits of TCP_MAXSEG: TCP_MIN_MSS and MAX_TCP_WINDOW.
	minUserMSS, maxUserMSS = 88, 32767
	// timestampLength is what timestamps take of every segment
	// (TCPOLEN_TSTAMP_ALIGNED).
	timestampLength = 12
)

// negotiated sets what both ends had agreed on.
func (c *restored) negotiated(m *socketspb.Connection) error {
	options := []repairOption{{optMSS, m.GetMss()}}
	has := func(bit uint32) bool { return m.GetOptions()&bit != 0 }
	if has(infoScale) {
		options = append(options, repairOption{optScale, m.GetSendScale() | m.GetReceiveScale()<<16})
	}
	if has(infoSACK) {
		options = append(options, repairOption{Code: optSACK})
	}
	if has(infoTimestamps) {
		options = append(options, repairOption{Code: optTimestamps})
	}
	if err := setStruct(c.fd, unix.TCP_REPAIR_OPTIONS, options...); err != nil {
		return fmt.Errorf("set what was negotiated: %w", err)
	}
	if has(infoTimestamps) {
		if err := setTCP(c.fd, unix.TCP_TIMESTAMP, int(int32(m.GetTimestamp()))); err != nil {
			return fmt.Errorf("set timestamp: %w", err)
		}
	}
	return nil
}

// fill fills both queues. What had never been sent is kept for later: in repair
// mode everything counts as sent.
func (c *restored) fill(r *inetRecord) error {
	m := c.msg.GetConnection()
	var send, receive []byte
	for _, p := range r.streams {
		if p.GetSend() {
			send = append(send, p.GetData()...)
		} else {
			receive = append(receive, p.GetData()...)
		}
	}
	if len(send) != int(m.GetSendLength()) || len(receive) != int(m.GetReceiveLength()) || m.GetUnsentLength() > m.GetSendLength() {
		return corrupt(kindInet, r.object, "queues of %d and %d bytes, want %d and %d", len(send), len(receive), m.GetSendLength(), m.GetReceiveLength())
	}
	sent := len(send) - int(m.GetUnsentLength())
	c.unsent = send[sent:]
	if peer := c.state(); len(c.unsent) > 0 && peer != stateEstablished && peer != stateCloseWait {
		// A FIN is behind them: they cannot be sent after it any more.
		sent, c.unsent = len(send), nil
	}
	for _, b := range []struct{ force, plain int }{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if err := setBuffer(c.fd, b.force, b.plain, bigBuffer); err != nil {
			return err
		}
	}
	for _, q := range []struct {
		queue int
		data  []byte
	}{{receiveQueue, receive}, {sendQueue, send[:sent]}} {
		if err := setTCP(c.fd, unix.TCP_REPAIR_QUEUE, q.queue); err != nil {
			return fmt.Errorf("TCP_REPAIR_QUEUE: %w", err)
		}
		if err := push(c.fd, q.data); err != nil {
			return fmt.Errorf("fill queue %d: %w", q.queue, err)
		}
	}
	return nil
}

// push sends all of data, as much at a time as the kernel takes.
func push(fd int, data []byte) error {
	const most = 128 << 10
	for len(data) > 0 {
		n, err := unix.SendmsgN(fd, data[:min(len(data), most)], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// stateTime bounds the arrival of a packet that this machine sends to itself.
const stateTime = time.Second

// bringToState makes the FINs happen that had happened: our own by shutdown(2),
// which sends nothing in repair mode, the peer's, and its acknowledgement of
// ours, by a packet in its name.
func (c *restored) bringToState() error {
	m := c.msg.GetConnection()
	shut := func() error {
		if err := unix.Shutdown(c.fd, unix.SHUT_WR); err != nil {
			return fmt.Errorf("shut down: %w", err)
		}
		return nil
	}
	send := func(flags byte, acked uint32) error {
		t := c.tuple()
		// No larger window than the peer has had: the kernel would compute the size
		// of segments from it.
		window := m.GetWindow().GetSend() >> m.GetSendScale()
		return c.network.do(func() error {
			return sendSegment(t.remote, t.local, segment{
				seq: m.GetReceiveSeq() + m.GetReceiveLength(), ack: acked, flags: flags, window: uint16(min(window, 0xffff)),
			})
		})
	}
	var err error
	switch c.state() {
	case stateFinWait1:
		err = shut()
	case stateFinWait2:
		err = errors.Join(shut(), send(flagACK, m.GetSendSeq()))
	case stateCloseWait:
		err = send(flagACK|flagFIN, m.GetSendSeq())
	case stateClosing:
		err = errors.Join(shut(), send(flagACK|flagFIN, m.GetSendSeq()))
	case stateLastAck:
		if err = send(flagACK|flagFIN, m.GetSendSeq()); err == nil {
			err = c.await(stateCloseWait)
		}
		if err == nil {
			err = shut()
		}
	}
	if err != nil {
		return err
	}
	return c.await(c.state())
}

// await waits until the connection is in a state.
func (c *restored) await(want uint8) error {
	for deadline := time.Now().Add(stateTime); ; time.Sleep(time.Millisecond) {
		info, err := unix.GetsockoptTCPInfo(c.fd, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			return fmt.Errorf("TCP_INFO: %w", err)
		}
		if info.State == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the connection is in state %d, want %d", info.State, want)
		}
	}
}

// errConnected tells that the machine has the connection already.
var errConnected = errors.New("the connection exists")

// bindConnection finds out whether a connection could be made: its address is
// one of this machine's, and nobody has it.
func bindConnection(r *inetRecord, existing map[tuple]bool) error {
	s := r.msg.GetSocket()
	var err error
	// The caller is in its namespace.
	if r.fd, err = unix.Socket(int(s.GetFamily()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP); err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	if err := configure(r.fd, s); err != nil {
		return err
	}
	if err := setTCP(r.fd, unix.TCP_REPAIR, repairOn); err != nil {
		return fmt.Errorf("TCP_REPAIR: CAP_NET_ADMIN needed: %w", err)
	}
	local, err := sockaddr(int(s.GetFamily()), r.msg.GetLocal())
	if err != nil {
		return err
	}
	if err := unix.Bind(r.fd, local); err != nil {
		return fmt.Errorf("bind to %s: %w", addrPort(r.msg.GetLocal()), err)
	}
	t := (&restored{msg: r.msg}).tuple()
	// Whoever has just ended may need a moment to let go of it.
	for deadline := time.Now().Add(releaseTime); existing[t]; existing = connectionsHere() {
		if time.Now().After(deadline) {
			return errConnected
		}
		time.Sleep(releaseTime / 10)
	}
	return nil
}

// releaseTime is how long a connection may still be there that is about to go.
const releaseTime = 100 * time.Millisecond

// connectionsHere are the connections that this machine's programs have.
func connectionsHere() map[tuple]bool {
	all := map[tuple]bool{}
	for _, table := range []string{"tcp", "tcp6"} {
		socks, err := procfs.InetSockets(table)
		if err != nil {
			continue // this machine lacks the family
		}
		for _, o := range socks {
			if o.Ino != 0 {
				all[tuple{unmap(o.Local), unmap(o.Remote)}] = true
			}
		}
	}
	return all
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
