package sockets

import (
	"bytes"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func bindPacket(t *testing.T, fd, index int, protocol uint16) {
	t.Helper()
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: hostOrder(protocol), Ifindex: index}); err != nil {
		t.Fatal(err)
	}
}

// TestPacket: a packet socket keeps its device, protocol, options, memberships, filter
// and fanout group, and one that receives nothing goes on doing so.
func TestPacket(t *testing.T) {
	gate.Cap(t, unix.CAP_NET_RAW)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	fd := socket(t, unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	set(t, fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1)
	set(t, fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2)
	var mreq [16]byte // promiscuous, two times
	mreq[0], mreq[4] = byte(lo.Index), unix.PACKET_MR_PROMISC
	for range 2 {
		if err := kern.SetSockopt(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, mreq[:]); err != nil {
			t.Fatal(err)
		}
	}
	receive := socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	addr := bindLocal(t, receive)
	// ld [20]; ldh [22] is the port of UDP without options; jeq port; ret
	filter := []unix.SockFilter{{Code: 0x28, K: 22}, {Code: 0x15, K: uint32(addr.Port()), Jf: 1}, {Code: 6, K: 0xffff}, {Code: 6}}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		t.Fatal(err)
	}
	bindPacket(t, fd, lo.Index, unix.ETH_P_IP)
	const group = 1<<16 | 0x4711 // PACKET_FANOUT_LB
	set(t, fd, unix.SOL_PACKET, unix.PACKET_FANOUT, group)
	silent := socket(t, unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, 0)

	fdtest.Dump(t, New(), nil, fd, silent).Restore()
	sa, err := unix.Getsockname(fd)
	if l, ok := sa.(*unix.SockaddrLinklayer); err != nil || !ok || l.Ifindex != lo.Index || hostOrder(l.Protocol) != unix.ETH_P_IP {
		t.Errorf("bound to %+v: %v", sa, err)
	}
	for name, want := range map[int]int{unix.PACKET_AUXDATA: 1, unix.PACKET_VERSION: unix.TPACKET_V2, unix.PACKET_FANOUT: group} {
		if got := get(t, fd, unix.SOL_PACKET, name); got != want {
			t.Errorf("option %d is %#x, want %#x", name, got, want)
		}
	}
	n, err := here()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	list, err := n.packetSockets()
	state := list[uint32(st.Ino)]
	if err != nil || state == nil {
		t.Fatalf("%v, %v", state, err)
	}
	m, err := packetMemberships(state.memberships)
	if err != nil || len(m) != 1 || m[0].GetDevice() != "lo" || m[0].GetType() != unix.PACKET_MR_PROMISC || m[0].GetCount() != 2 {
		t.Errorf("memberships %v, %v", m, err)
	}
	const text = "seen on its way"
	client := socket(t, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err := unix.Sendto(client, []byte(text), 0, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		t.Fatal(err)
	}
	if err := poll(fd); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if size, err := unix.Read(fd, buf); err != nil || !bytes.HasSuffix(buf[:size], []byte(text)) {
		t.Errorf("read %q: %v", buf[:max(size, 0)], err)
	}
	if p, err := pollSocket(silent); err != nil || p.has(unix.POLLIN) {
		t.Errorf("a socket that receives nothing has received something: %v", err)
	}
}

// TestPacketRefused: rings, and groups in which a program decides.
func TestPacketRefused(t *testing.T) {
	gate.Cap(t, unix.CAP_NET_RAW)
	ring := socket(t, unix.AF_PACKET, unix.SOCK_RAW, 0)
	req := unix.TpacketReq{Block_size: 4096, Block_nr: 1, Frame_size: 2048, Frame_nr: 2}
	if err := unix.SetsockoptTpacketReq(ring, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		t.Fatal(err)
	}
	blocked(t, "has a ring", ring)
	chosen := socket(t, unix.AF_PACKET, unix.SOCK_RAW, 0)
	bindPacket(t, chosen, 1, unix.ETH_P_LOOPBACK)
	set(t, chosen, unix.SOL_PACKET, unix.PACKET_FANOUT, fanoutCBPF|0x4712)
	blocked(t, "a program decides", chosen)
}
