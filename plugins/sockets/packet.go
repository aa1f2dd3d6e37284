package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// From linux/if_packet.h and linux/packet_diag.h.
const (
	packetQdiscBypass    = 20
	packetIgnoreOutgoing = 23
	packetVnetHdrSize    = 24

	fanoutTypeBits = 0xff << 16
	fanoutCBPF     = 6 << 16

	packetDiagReqSize = 20
	packetDiagMsgSize = 16
	packetShowLists   = 1<<1 | 1<<2 // of memberships, of rings

	packetAttrMemberships = 1
	packetAttrRxRing      = 2
	packetAttrTxRing      = 3

	// packetEntry is the size of struct packet_diag_mclist: index, count, u16 type,
	// u16 length of the address, address.
	packetEntry   = 44
	packetMaxAddr = 32
)

// packetOptions are those of SOL_PACKET that getsockopt(2) reads, too. A socket with
// a version or a reserve but without a ring has them for the ring to come.
var packetOptions = optionSet{unix.SOL_PACKET, []int{
	unix.PACKET_AUXDATA, unix.PACKET_ORIGDEV, unix.PACKET_VERSION, unix.PACKET_RESERVE, unix.PACKET_LOSS,
	unix.PACKET_TIMESTAMP, unix.PACKET_TX_HAS_OFF, packetQdiscBypass, packetIgnoreOutgoing, packetVnetHdrSize,
}}

// packetState is what sock_diag(7) tells of a packet socket.
type packetState struct {
	ring        bool
	memberships []byte
}

// examinePacket handles packet sockets (packet(7)) without rings. What waits in one
// is a copy of packets that pass by, of which such a socket loses some at any time.
func (s *survey) examinePacket(it *item, fd int, sock *socketspb.Socket) error {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	local, ok := sa.(*unix.SockaddrLinklayer)
	if !ok {
		return fmt.Errorf("address of another family: %w", sdk.ErrKernel)
	}
	list, err := s.packetSockets(it.network)
	if err != nil {
		return err
	}
	state := list[uint32(it.file().Ino)]
	if state == nil {
		return fmt.Errorf("sock_diag does not know socket %d: %w", it.file().Ino, sdk.ErrChanged)
	}
	if state.ring {
		s.block(it, "packet socket: has a ring (PACKET_RX_RING, PACKET_TX_RING)", "")
		return nil
	}
	msg := &socketspb.Packet{Socket: sock, Protocol: uint32(hostOrder(local.Protocol))}
	fanout, err := unix.GetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
	if err != nil {
		return fmt.Errorf("PACKET_FANOUT: %w", err)
	}
	if fanout&fanoutTypeBits >= fanoutCBPF {
		s.block(it, "packet socket: a program decides what comes to it (PACKET_FANOUT_DATA), which the kernel does not give back", "")
		return nil
	}
	msg.Fanout = uint32(fanout)
	err = it.network.do(func() (err error) {
		if local.Ifindex != 0 {
			if msg.Device, err = deviceName(local.Ifindex); err != nil {
				return err
			}
		}
		msg.Memberships, err = packetMemberships(state.memberships)
		return err
	})
	if err != nil {
		return err
	}
	if p, err := pollSocket(fd); err != nil {
		return err
	} else if s.frozen && p.has(unix.POLLIN) {
		s.report.Note(it.res, "packet socket: packets that the program has not read yet are lost")
	}
	it.kind, it.msg = kindPacket, msg
	return nil
}

func hostOrder(n uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n))
}

// deviceName is the name of a device of the calling thread's namespace.
func deviceName(index int) (string, error) {
	dev, err := net.InterfaceByIndex(index)
	if err != nil {
		return "", fmt.Errorf("device %d: %w", index, err)
	}
	return dev.Name, nil
}

// packetSockets are those of a namespace, by inode; the kernel is asked once.
func (s *survey) packetSockets(n *network) (_ map[uint32]*packetState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.packets[n] == nil {
		if s.packets == nil {
			s.packets = map[*network]map[uint32]*packetState{}
		}
		s.packets[n], err = n.packetSockets()
	}
	return s.packets[n], err
}

// packetSockets lists the packet sockets of a namespace.
func (n *network) packetSockets() (_ map[uint32]*packetState, err error) {
	conn, err := n.dial(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	req := make([]byte, packetDiagReqSize) // struct packet_diag_req
	req[0] = unix.AF_PACKET
	binary.NativeEndian.PutUint32(req[8:], packetShowLists)
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: req,
	})
	if err != nil {
		return nil, fmt.Errorf("list packet sockets: %w", err)
	}
	out := make(map[uint32]*packetState, len(msgs))
	for _, m := range msgs {
		if len(m.Data) < packetDiagMsgSize {
			return nil, fmt.Errorf("list packet sockets: message of %d bytes: %w", len(m.Data), sdk.ErrKernel)
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[packetDiagMsgSize:])
		if err != nil {
			return nil, fmt.Errorf("list packet sockets: %w", err)
		}
		state := &packetState{}
		for ad.Next() {
			switch ad.Type() {
			case packetAttrMemberships:
				state.memberships = ad.Bytes()
			case packetAttrRxRing, packetAttrTxRing:
				state.ring = true
			}
		}
		if err := ad.Err(); err != nil {
			return nil, fmt.Errorf("list packet sockets: %w", err)
		}
		out[binary.NativeEndian.Uint32(m.Data[4:])] = state
	}
	return out, nil
}

// packetMemberships reads the list of sock_diag(7), the oldest first.
func packetMemberships(b []byte) (out []*socketspb.PacketMembership, err error) {
	for ; len(b) >= packetEntry; b = b[packetEntry:] {
		m := &socketspb.PacketMembership{Count: binary.NativeEndian.Uint32(b[4:]), Type: uint32(binary.NativeEndian.Uint16(b[8:]))}
		size := min(int(binary.NativeEndian.Uint16(b[10:])), packetMaxAddr)
		m.Address = append(m.Address, b[12:12+size]...)
		if m.Device, err = deviceName(int(binary.NativeEndian.Uint32(b))); err != nil {
			return nil, err
		}
		out = append([]*socketspb.PacketMembership{m}, out...)
	}
	return out, nil
}

// packetRecord is a packet socket and, in a restore, its descriptor.
type packetRecord struct {
	object  uint64
	msg     *socketspb.Packet
	fd      int
	network *network
}

// restore makes a socket. It is bound when all else is set: from then on it receives.
func (r *packetRecord) restore() (err error) {
	s := r.msg.GetSocket()
	if r.fd, err = r.network.socket(unix.AF_PACKET, int(s.GetType()), 0); err != nil {
		return err
	}
	if err := configure(r.fd, s); err != nil {
		return err
	}
	if err := r.network.do(r.join); err != nil {
		return err
	}
	if f := r.msg.GetFanout(); f != 0 {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, int(f)); err != nil {
			return fmt.Errorf("join fanout group %#x: %w", f, err)
		}
	}
	return finish(r.fd, s)
}

// packetMreq is struct packet_mreq with room for the longest address.
type packetMreq struct {
	index  int32
	typ    uint16
	length uint16
	addr   [packetMaxAddr]byte
}

// join joins the groups of devices and binds the socket.
func (r *packetRecord) join() error {
	for _, m := range r.msg.GetMemberships() {
		dev, err := net.InterfaceByName(m.GetDevice())
		if err != nil {
			return fmt.Errorf("device %s: %w", m.GetDevice(), err)
		}
		req := packetMreq{index: int32(dev.Index), typ: uint16(m.GetType()), length: uint16(len(m.GetAddress()))}
		copy(req.addr[:], m.GetAddress())
		b := unsafe.Slice((*byte)(unsafe.Pointer(&req)), unsafe.Sizeof(req))
		for range m.GetCount() {
			if err := kern.SetSockopt(r.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, b); err != nil {
				return fmt.Errorf("join group of %s: %w", m.GetDevice(), err)
			}
		}
	}
	if r.msg.GetProtocol() == 0 && r.msg.GetDevice() == "" {
		return nil
	}
	local := &unix.SockaddrLinklayer{Protocol: hostOrder(uint16(r.msg.GetProtocol()))}
	if name := r.msg.GetDevice(); name != "" {
		dev, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("device %s: %w", name, err)
		}
		local.Ifindex = dev.Index
	}
	if err := unix.Bind(r.fd, local); err != nil {
		return fmt.Errorf("bind to %q: %w", r.msg.GetDevice(), err)
	}
	return nil
}

// checkPacket finds out whether the devices of a socket are there.
func (c *imageCheck) checkPacket(r *packetRecord) {
	if r.network == nil {
		return // they come with their namespace
	}
	names := []string{r.msg.GetDevice()}
	for _, m := range r.msg.GetMemberships() {
		names = append(names, m.GetDevice())
	}
	for _, name := range names {
		if name == "" {
			continue
		}
		err := r.network.do(func() error {
			_, err := net.InterfaceByName(name)
			return err
		})
		if err != nil {
			c.block(r.object, fmt.Sprintf("packet socket: there is no device %s", name), "make it, or restore elsewhere")
			return
		}
	}
}

func (im *image) addPacket(r sdk.Record) error {
	m := &socketspb.Packet{}
	if err := r.Decode(m); err != nil {
		return err
	}
	if m.GetSocket().GetFamily() != unix.AF_PACKET || m.GetProtocol() > 0xffff {
		return corrupt(r.Kind, r.Object, "family %d, protocol %d", m.GetSocket().GetFamily(), m.GetProtocol())
	}
	for _, g := range m.GetMemberships() {
		if len(g.GetAddress()) > packetMaxAddr || g.GetCount() > 1<<16 {
			return corrupt(r.Kind, r.Object, "membership with an address of %d bytes", len(g.GetAddress()))
		}
	}
	im.packet = append(im.packet, &packetRecord{object: r.Object, msg: m, fd: -1})
	return nil
}
