package sockets

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/nft"
	"github.com/firn-cr/firn/sdk"
)

// A netLock keeps the packets of some connections away from this machine's
// sockets and from the network: a table of nftables of its own whose two chains
// drop them. The peers see a network that loses packets for a while.
//
// The table of a lock that is held belongs to its netlink socket: the kernel
// removes it when the process ends, however it does (NFT_TABLE_F_OWNER, since
// Linux 5.12). The one that waits for a restore belongs to nobody.
type netLock struct {
	conn *netlink.Conn // nil for a table that stays
	name string
}

// tuple is a connection as seen from this machine. The addresses are not
// IPv4-mapped ones.
type tuple struct{ local, remote netip.AddrPort }

const (
	lockPrefix = "firn-"
	// lockMark is the mark of packets that pass: those by which a restore brings
	// a connection to the state that it was in.
	lockMark = 0x4669726e
	// lockPriority is before everything that others do, connection tracking
	// included (NF_IP_PRI_RAW_BEFORE_DEFRAG is -450).
	lockPriority = -460
	// maxElements is how many connections go into one message.
	maxElements = 500

	tableOwner     = 0x2  // NFT_TABLE_F_OWNER
	typeV4, typeV6 = 7, 8 // ipv4_addr and ipv6_addr, by which nft(8) shows keys
	typePort       = 13   // inet_service
	setV4, setV6   = "connections4", "connections6"
	firstRegister  = 8 // NFT_REG32_00
)

// newLockName makes a name that no table has.
func newLockName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return lockPrefix + hex.EncodeToString(b[:])
}

// holdLock locks connections until the lock is released or this process ends.
func (n *network) holdLock(tuples []tuple) (err error) {
	conn, err := n.dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("lock the network: %w", err)
	}
	l := &netLock{conn: conn, name: newLockName()}
	if err := makeTable(conn, l.name, tableOwner, tuples); err != nil {
		return errors.Join(err, conn.Close())
	}
	n.lock = l
	return nil
}

// leaveLock locks connections until somebody removes the table.
func (n *network) leaveLock(name string, tuples []tuple) (err error) {
	conn, err := n.dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("lock the network: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return makeTable(conn, name, 0, tuples)
}

// release removes the lock. Releasing nil does nothing.
func (l *netLock) release() error {
	if l == nil {
		return nil
	}
	// Not left to the end of the socket, which the kernel handles later.
	return errors.Join(deleteTable(l.conn, l.name), l.conn.Close())
}

// removeLock removes a table that was left; one that is not there is no error.
func (n *network) removeLock(name string) (err error) {
	conn, err := n.dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("unlock the network: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := deleteTable(conn, name); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func deleteTable(conn *netlink.Conn, name string) error {
	b := &nftBatch{}
	b.add(unix.NFT_MSG_DELTABLE, 0, func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_TABLE_NAME, name) })
	if err := b.send(conn); err != nil {
		return fmt.Errorf("unlock the network: delete table %s: %w", name, err)
	}
	return nil
}

// makeTable makes the table with everything in it, or nothing.
func makeTable(conn *netlink.Conn, name string, flags uint32, tuples []tuple) error {
	b := &nftBatch{}
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, name)
		ae.Uint32(unix.NFTA_TABLE_FLAGS, flags)
	})
	for _, c := range []struct {
		name string
		hook uint32
	}{{"input", unix.NF_INET_LOCAL_IN}, {"output", unix.NF_INET_LOCAL_OUT}} {
		b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_CHAIN_TABLE, name)
			ae.String(unix.NFTA_CHAIN_NAME, c.name)
			ae.String(unix.NFTA_CHAIN_TYPE, "filter")
			ae.Nested(unix.NFTA_CHAIN_HOOK, func(ae *netlink.AttributeEncoder) error {
				ae.Uint32(unix.NFTA_HOOK_HOOKNUM, c.hook)
				priority := int32(lockPriority)
				ae.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(priority))
				return nil
			})
		})
	}
	for id, s := range []struct {
		name  string
		width int
		typ   uint32
	}{{setV4, 4, typeV4}, {setV6, 16, typeV6}} {
		b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_SET_TABLE, name)
			ae.String(unix.NFTA_SET_NAME, s.name)
			ae.Uint32(unix.NFTA_SET_ID, uint32(id+1))
			ae.Uint32(unix.NFTA_SET_KEY_TYPE, s.typ<<18|typePort<<12|s.typ<<6|typePort)
			ae.Uint32(unix.NFTA_SET_KEY_LEN, uint32(2*s.width+8))
		})
		for _, chain := range []string{"input", "output"} {
			b.addRule(name, chain, s.name, uint32(id+1), uint32(s.width))
		}
		b.addElements(name, s.name, uint32(id+1), keysOf(tuples, s.width))
	}
	if err := b.send(conn); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("lock the network: CAP_NET_ADMIN needed: %w", sdk.ErrNotPermitted)
		}
		return fmt.Errorf("lock the network by nftables: %w", err)
	}
	return nil
}

// keysOf are the elements for one width of addresses: source and destination of
// the packets in both directions, with the ports in four bytes each.
func keysOf(tuples []tuple, width int) (keys [][]byte) {
	key := func(from, to netip.AddrPort) []byte {
		var k []byte
		for _, a := range []netip.AddrPort{from, to} {
			k = append(k, a.Addr().AsSlice()...)
			k = append(k, byte(a.Port()>>8), byte(a.Port()), 0, 0)
		}
		return k
	}
	seen := map[string]bool{}
	for _, t := range tuples {
		if t.local.Addr().BitLen() != 8*width {
			continue
		}
		for _, k := range [][]byte{key(t.local, t.remote), key(t.remote, t.local)} {
			if !seen[string(k)] {
				seen[string(k)] = true
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// nftBatch is a transaction: what is in it happens at once, or not at all.
type nftBatch struct {
	messages []netlink.Message
	err      error
}

func (b *nftBatch) add(typ int, flags netlink.HeaderFlags, attributes func(*netlink.AttributeEncoder)) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = networkOrder
	attributes(ae)
	data, err := ae.Encode()
	b.err = errors.Join(b.err, err)
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{
			Type:  nft.Type(typ),
			Flags: netlink.Request | netlink.Acknowledge | flags,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...),
	})
}

// addRule adds the rule that drops what is in a set, unless it has the mark.
func (b *nftBatch) addRule(table, chain, set string, id, width uint32) {
	protocol, source := byte(unix.NFPROTO_IPV4), uint32(12)
	if width == 16 {
		protocol, source = unix.NFPROTO_IPV6, 8
	}
	mark := make([]byte, 4)
	nativeOrder.PutUint32(mark, lockMark)
	words := width / 4
	expressions := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: mark},
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: firstRegister, Base: expr.PayloadBaseNetworkHeader, Offset: source, Len: width},
		&expr.Payload{DestRegister: firstRegister + words, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Payload{DestRegister: firstRegister + words + 1, Base: expr.PayloadBaseNetworkHeader, Offset: source + width, Len: width},
		&expr.Payload{DestRegister: firstRegister + 2*words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: firstRegister, SetName: set, SetID: id},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, table)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
		ae.Nested(unix.NFTA_RULE_EXPRESSIONS, func(ae *netlink.AttributeEncoder) error {
			for _, e := range expressions {
				data, err := expr.Marshal(unix.NFPROTO_INET, e)
				if err != nil {
					return err
				}
				ae.Bytes(unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, data)
			}
			return nil
		})
	})
}

func (b *nftBatch) addElements(table, set string, id uint32, keys [][]byte) {
	for len(keys) > 0 {
		some := keys[:min(len(keys), maxElements)]
		keys = keys[len(some):]
		b.add(unix.NFT_MSG_NEWSETELEM, netlink.Create, func(ae *netlink.AttributeEncoder) {
			ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, table)
			ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
			ae.Uint32(unix.NFTA_SET_ELEM_LIST_SET_ID, id)
			ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(ae *netlink.AttributeEncoder) error {
				for _, k := range some {
					ae.Nested(unix.NFTA_LIST_ELEM, func(ae *netlink.AttributeEncoder) error {
						ae.Nested(unix.NFTA_SET_ELEM_KEY, func(ae *netlink.AttributeEncoder) error {
							ae.Bytes(unix.NFTA_DATA_VALUE, k)
							return nil
						})
						return nil
					})
				}
				return nil
			})
		})
	}
}

// send sends the transaction and waits until it is done.
func (b *nftBatch) send(conn *netlink.Conn) error {
	if b.err != nil {
		return b.err
	}
	_, err := nft.Commit(conn, b.messages)
	return err
}

// nftables wants numbers in network order, marks excepted.
var networkOrder, nativeOrder = binary.BigEndian, binary.NativeEndian
