package sockets

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk/kern"
)

// Options that x/sys lacks (asm-generic/socket.h, linux/in.h, linux/tcp.h).
const (
	soRcvMark     = 75
	soPassPIDFD   = 76
	soRcvPriority = 82
	soPassRights  = 83
	soInq         = 84

	ipRecvErrRFC4884  = 26
	ipLocalPortRange  = 51
	tcpRTOMaxMS       = 44
	tcpRTOMinUS       = 45
	tcpDelAckMaxUS    = 46
	udpNoCheck6TX     = 101
	udpNoCheck6RX     = 102
	ipv6MulticastAll  = 29
	ipv6RecvErrRFC    = 31
	ipv6FlowInfoSend  = 33
	ipv6UnicastIF     = 76
	ipv6RecvFragSize  = 77
	ipv6MinHopCount   = 73
	ipv6OrigDstAddr   = 74
	ipv6Transparent   = 75
	ipv6AddrPrefs     = 72
	ipv6AutoFlowLabel = 70

	icmpFilter       = 1 // ICMP_FILTER, ICMPV6_FILTER (linux/icmp.h, linux/icmpv6.h)
	ipHdrIncl        = 3
	ipv6HdrIncl      = 36
	ipv6Checksum     = 7
	liteSendCoverage = 10 // linux/udp.h
	liteRecvCoverage = 11
)

// optionSet are options of one level.
type optionSet struct {
	level int
	names []int
}

// Every option that getsockopt(2) reads and setsockopt(2) takes in the same
// form. SO_PRIORITY comes after what changes it (IP_TOS), SO_LOCK_FILTER after
// the filter. Buffer sizes and filters have their own form.
var (
	socketOptions = optionSet{unix.SOL_SOCKET, []int{
		unix.SO_REUSEADDR, unix.SO_REUSEPORT, unix.SO_KEEPALIVE, unix.SO_BROADCAST, unix.SO_OOBINLINE, unix.SO_LINGER,
		unix.SO_RCVLOWAT, unix.SO_RCVTIMEO, unix.SO_SNDTIMEO, unix.SO_MARK, unix.SO_BINDTODEVICE,
		unix.SO_TIMESTAMP_OLD, unix.SO_TIMESTAMPNS_OLD, unix.SO_TIMESTAMPING_OLD,
		unix.SO_TIMESTAMP_NEW, unix.SO_TIMESTAMPNS_NEW, unix.SO_TIMESTAMPING_NEW,
		unix.SO_PASSCRED, unix.SO_PASSSEC, soPassPIDFD, soPassRights, soInq, unix.SO_NO_CHECK, unix.SO_DONTROUTE, unix.SO_DEBUG,
		unix.SO_BUSY_POLL, unix.SO_PREFER_BUSY_POLL, unix.SO_BUSY_POLL_BUDGET, unix.SO_MAX_PACING_RATE,
		unix.SO_INCOMING_CPU, unix.SO_TXTIME, unix.SO_ZEROCOPY, unix.SO_RXQ_OVFL, unix.SO_WIFI_STATUS, unix.SO_NOFCS,
		unix.SO_SELECT_ERR_QUEUE, unix.SO_RESERVE_MEM, unix.SO_TXREHASH, soRcvMark, soRcvPriority, unix.SO_PEEK_OFF,
		unix.SO_LOCK_FILTER,
	}}
	ipOptions = optionSet{unix.SOL_IP, []int{
		unix.IP_TOS, unix.IP_TTL, unix.IP_OPTIONS, unix.IP_RECVOPTS, unix.IP_RETOPTS, unix.IP_PKTINFO, unix.IP_MTU_DISCOVER,
		unix.IP_RECVERR, unix.IP_RECVTTL, unix.IP_RECVTOS, unix.IP_FREEBIND, unix.IP_PASSSEC, unix.IP_TRANSPARENT,
		unix.IP_RECVORIGDSTADDR, unix.IP_MINTTL, unix.IP_CHECKSUM, unix.IP_BIND_ADDRESS_NO_PORT, unix.IP_RECVFRAGSIZE,
		ipRecvErrRFC4884, unix.IP_MULTICAST_IF, unix.IP_MULTICAST_TTL, unix.IP_MULTICAST_LOOP, unix.IP_MULTICAST_ALL,
		unix.IP_UNICAST_IF, ipLocalPortRange,
	}}
	ipv6Options = optionSet{unix.SOL_IPV6, []int{
		unix.IPV6_V6ONLY, unix.IPV6_UNICAST_HOPS, unix.IPV6_MULTICAST_IF, unix.IPV6_MULTICAST_HOPS, unix.IPV6_MULTICAST_LOOP,
		unix.IPV6_MTU_DISCOVER, unix.IPV6_RECVERR, unix.IPV6_RECVPKTINFO, unix.IPV6_RECVHOPLIMIT, unix.IPV6_RECVRTHDR,
		unix.IPV6_RECVHOPOPTS, unix.IPV6_RECVDSTOPTS, unix.IPV6_RECVTCLASS, unix.IPV6_TCLASS, unix.IPV6_RECVPATHMTU,
		unix.IPV6_DONTFRAG, unix.IPV6_FREEBIND, unix.IPV6_HOPOPTS, unix.IPV6_RTHDRDSTOPTS, unix.IPV6_RTHDR, unix.IPV6_DSTOPTS,
		unix.IPV6_2292PKTINFO, unix.IPV6_2292HOPOPTS, unix.IPV6_2292DSTOPTS, unix.IPV6_2292RTHDR, unix.IPV6_2292HOPLIMIT,
		ipv6MulticastAll, ipv6RecvErrRFC, ipv6FlowInfoSend, ipv6UnicastIF, ipv6RecvFragSize, ipv6MinHopCount,
		ipv6OrigDstAddr, ipv6Transparent, ipv6AddrPrefs, ipv6AutoFlowLabel,
	}}
	tcpOptions = optionSet{unix.SOL_TCP, []int{
		unix.TCP_NODELAY, unix.TCP_MAXSEG, unix.TCP_CORK, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT,
		unix.TCP_SYNCNT, unix.TCP_LINGER2, unix.TCP_DEFER_ACCEPT, unix.TCP_WINDOW_CLAMP, unix.TCP_CONGESTION,
		unix.TCP_THIN_LINEAR_TIMEOUTS, unix.TCP_USER_TIMEOUT, unix.TCP_FASTOPEN, unix.TCP_FASTOPEN_KEY,
		unix.TCP_FASTOPEN_CONNECT, unix.TCP_FASTOPEN_NO_COOKIE, unix.TCP_NOTSENT_LOWAT, unix.TCP_SAVE_SYN, unix.TCP_INQ,
		unix.TCP_TX_DELAY, tcpRTOMaxMS, tcpRTOMinUS, tcpDelAckMaxUS,
	}}
	rawOptions  = optionSet{unix.SOL_RAW, []int{icmpFilter}}
	raw4Options = optionSet{unix.SOL_IP, []int{ipHdrIncl}}
	raw6Options = optionSet{unix.SOL_IPV6, []int{ipv6HdrIncl, ipv6Checksum}}
	icmp6       = optionSet{unix.SOL_ICMPV6, []int{icmpFilter}}
	liteOptions = optionSet{unix.IPPROTO_UDPLITE, []int{liteSendCoverage, liteRecvCoverage}}
	udpOptions  = optionSet{unix.SOL_UDP, []int{
		unix.UDP_CORK, unix.UDP_ENCAP, udpNoCheck6TX, udpNoCheck6RX, unix.UDP_SEGMENT, unix.UDP_GRO,
	}}
	priority = optionSet{unix.SOL_SOCKET, []int{unix.SO_PRIORITY}}
)

// optionsOf returns the options of a kind of socket in the order in which they
// are set.
func optionsOf(k kindOfSocket) []optionSet {
	sets := []optionSet{socketOptions}
	if k.family == unix.AF_UNIX {
		return append(sets, priority)
	}
	if k.family == unix.AF_NETLINK {
		return append(sets, netlinkOptions, priority)
	}
	if k.family == unix.AF_PACKET {
		return append(sets, packetOptions, priority)
	}
	sets = append(sets, ipOptions) // of AF_INET6 sockets too
	if k.family == unix.AF_INET6 {
		sets = append(sets, ipv6Options)
	}
	switch {
	case k.protocol == unix.IPPROTO_UDPLITE:
		sets = append(sets, udpOptions, liteOptions)
	case isPing(k):
		sets = append(sets, icmp6)
	case k.typ == unix.SOCK_DGRAM:
		sets = append(sets, udpOptions)
	case k.typ == unix.SOCK_RAW && k.family == unix.AF_INET6:
		sets = append(sets, raw6Options, icmp6)
	case k.typ == unix.SOCK_RAW:
		sets = append(sets, raw4Options, rawOptions)
	default:
		sets = append(sets, tcpOptions)
	}
	return append(sets, priority)
}

// kindOfSocket are the arguments of socket(2).
type kindOfSocket struct{ family, typ, protocol int }

// optionKey names an option.
type optionKey struct{ level, name int }

// defaults are the options of new sockets. What a socket has in common with
// them was never set.
type defaults struct {
	network *network // where they are read
	mu      sync.Mutex
	kinds   map[kindOfSocket]map[optionKey][]byte
}

func (d *defaults) of(k kindOfSocket) (map[optionKey][]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m, ok := d.kinds[k]; ok {
		return m, nil
	}
	fd, err := d.network.socket(k.family, k.typ, k.protocol)
	if err != nil {
		return nil, fmt.Errorf("make a new socket to compare with: %w", err)
	}
	defer unix.Close(fd)
	m := map[optionKey][]byte{}
	if err := readOptions(fd, k, func(key optionKey, value []byte) { m[key] = value }); err != nil {
		return nil, err
	}
	for _, name := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		key := optionKey{unix.SOL_SOCKET, name}
		if m[key], err = readOption(fd, key); err != nil {
			return nil, err
		}
	}
	if d.kinds == nil {
		d.kinds = map[kindOfSocket]map[optionKey][]byte{}
	}
	d.kinds[k] = m
	return m, nil
}

// readOptions calls f for every option that the socket has.
func readOptions(fd int, k kindOfSocket, f func(optionKey, []byte)) error {
	for _, set := range optionsOf(k) {
		for _, name := range set.names {
			key := optionKey{set.level, name}
			value, err := readOption(fd, key)
			if notThere(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read option %d of level %d: %w", name, set.level, err)
			}
			f(key, value)
		}
	}
	return nil
}

// notThere tells that this kernel or kind of socket lacks the option.
func notThere(err error) bool {
	return errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) ||
		errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.EPERM)
}

// maxOption is more than any option has.
const maxOption = 512

func readOption(fd int, key optionKey) ([]byte, error) {
	var b [maxOption]byte
	n, err := kern.GetSockopt(fd, key.level, key.name, b[:])
	if err != nil {
		return nil, err
	}
	return bytes.Clone(b[:n]), nil
}

// changedOptions returns the options that are not those of a new socket.
func (d *defaults) changedOptions(fd int, k kindOfSocket) ([]*socketspb.Option, error) {
	usual, err := d.of(k)
	if err != nil {
		return nil, err
	}
	var out []*socketspb.Option
	tos := false // IP_TOS and IPV6_TCLASS change the priority
	err = readOptions(fd, k, func(key optionKey, value []byte) {
		isPriority := key == optionKey{unix.SOL_SOCKET, unix.SO_PRIORITY}
		if was, ok := usual[key]; ok && bytes.Equal(was, value) && !(isPriority && tos) {
			return
		}
		tos = tos || key == optionKey{unix.SOL_IP, unix.IP_TOS} || key == optionKey{unix.SOL_IPV6, unix.IPV6_TCLASS}
		out = append(out, &socketspb.Option{Level: int32(key.level), Name: int32(key.name), Value: value})
	})
	return out, err
}

// setOptions sets options on a new socket.
func setOptions(fd int, options []*socketspb.Option) error {
	for _, o := range options {
		if err := kern.SetSockopt(fd, int(o.GetLevel()), int(o.GetName()), o.GetValue()); err != nil {
			return fmt.Errorf("set option %d of level %d to %x: %w", o.GetName(), o.GetLevel(), o.GetValue(), err)
		}
	}
	return nil
}
