package sockets

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// Kinds of records. Never reuse a number.
const (
	kindInet     uint32 = 1
	kindUnix     uint32 = 2
	kindMessage  uint32 = 3
	kindStream   uint32 = 4
	kindDatagram uint32 = 5
	kindNetlink  uint32 = 6
	kindPacket   uint32 = 7
)

// plugin carries sockets.
type plugin struct {
	mu sync.Mutex
	// nets are the network namespaces of the session.
	nets networks
	// frozen is what was found while the tree stood still; the dump needs it.
	frozen *survey
	// conns and reader are those of connections that are being saved, left is the
	// name of the lock that stays.
	conns  []*savedConnection
	reader *reader
	left   string
	// restored are connections that are being rebuilt, givenUp the locks of those
	// that are not.
	restored []*restored
	givenUp  []leftLock
	// unfinished are unix sockets whose queues wait for files.
	unfinished *unixRestore
	// states and listeners are what LinkFiles completes.
	states    []openfile.State
	listeners []listener
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	var claims []sdk.Claim
	claim := func(family, typ, protocol int) {
		claims = append(claims, sdk.Claim{
			Kind: sdk.KindFile, Type: sdk.TypeSocket,
			Socket: &sdk.Socket{Family: family, Type: typ, Protocol: protocol},
		})
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		claim(family, unix.SOCK_STREAM, unix.IPPROTO_TCP)
		claim(family, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
		claim(family, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		claim(family, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE)
		claim(family, unix.SOCK_RAW, sdk.Any)
	}
	claim(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	claim(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6)
	claim(unix.AF_NETLINK, unix.SOCK_RAW, sdk.Any)
	claim(unix.AF_NETLINK, unix.SOCK_DGRAM, sdk.Any)
	claim(unix.AF_PACKET, unix.SOCK_RAW, sdk.Any)
	claim(unix.AF_PACKET, unix.SOCK_DGRAM, sdk.Any)
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		claim(unix.AF_UNIX, typ, sdk.Any)
	}
	return sdk.Description{
		Name:    "sockets",
		Version: "0.1.0",
		Summary: "TCP connections and listeners, UDP, raw, packet, unix and netlink sockets, with their queues",
		Claims:  claims,
		Attends: []sdk.Claim{{Kind: sdk.KindNamespace, Namespace: "net"}},
		Records: []sdk.RecordType{
			{Kind: kindInet, Version: 1, Message: &socketspb.Inet{}},
			{Kind: kindUnix, Version: 1, Message: &socketspb.Unix{}},
			{Kind: kindMessage, Version: 1, Message: &socketspb.Message{}},
			{Kind: kindStream, Version: 1, Message: &socketspb.Stream{}},
			{Kind: kindDatagram, Version: 1, Message: &socketspb.Datagram{}},
			{Kind: kindNetlink, Version: 1, Message: &socketspb.Netlink{}},
			{Kind: kindPacket, Version: 1, Message: &socketspb.Packet{}},
		},
		Capabilities: []string{"CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_NET_RAW"},
	}
}
