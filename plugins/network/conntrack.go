package network

import (
	"encoding/binary"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
)

// networkOrder is that of numbers of netfilter.
var networkOrder = binary.BigEndian

// Messages and attributes of connection tracking
// (linux/netfilter/nfnetlink_conntrack.h).
const (
	subsysTracking     = 1 // NFNL_SUBSYS_CTNETLINK
	subsysExpectations = 2 // NFNL_SUBSYS_CTNETLINK_EXP
	trackingNew        = 0
	trackingGet        = 1

	ctaTupleOrig             = 1
	ctaTupleReply, ctaStatus = 2, 3
	ctaNATSrc, ctaNATDst     = 6, 13
	ctaTupleIP, ctaTupleL4   = 1, 2
	ctaTimeout               = 7

	ctaProtoInfo, ctaProtoInfoTCP   = 4, 1
	tcpFlagsOriginal, tcpFlagsReply = 4, 5
	ctaICMPType, ctaICMPv6Type      = 5, 8

	// IPv4 or IPv6, source or destination, of a tuple and of a range for NAT.
	ctaV4Src, ctaV4Dst, ctaV6Src, ctaV6Dst     = 1, 2, 3, 4
	ctaSrcPort, ctaDstPort                     = 2, 3
	natV4Min, natV4Max, natProto               = 1, 2, 3
	natV6Min, natV6Max, natPortMin, natPortMax = 4, 5, 1, 2

	statusSrcNAT, statusDstNAT = 1 << 4, 1 << 5 // IPS_SRC_NAT, IPS_DST_NAT
)

// keptTracking are the attributes that a new entry takes: both tuples, status,
// state of the protocol, timeout, mark, zone, sequence adjustments, labels.
var keptTracking = []uint32{ctaTupleOrig, ctaTupleReply, ctaStatus, ctaProtoInfo, 5, ctaTimeout, 8, 15, 16, 18, 22, 23}

// readTracking reads the connections that are tracked.
func (c *conns) readTracking(out *contents) error {
	messages, err := list(c.filter, subsysTracking<<8|trackingGet, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0})
	if err != nil {
		if absent(err) {
			return nil
		}
		return fmt.Errorf("list tracked connections: %w", err)
	}
	for _, m := range messages {
		e, err := trackingEntry(m.Data)
		if err != nil {
			return err
		}
		out.entries[networkpb.Table_TABLE_CONNTRACK] = append(out.entries[networkpb.Table_TABLE_CONNTRACK], e)
	}
	expected, err := list(c.filter, subsysExpectations<<8|trackingGet, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0})
	if err != nil && !absent(err) {
		return fmt.Errorf("list expected connections: %w", err)
	}
	if len(expected) > 0 {
		out.refuse("connection tracking: expects %d connections", len(expected))
	}
	return nil
}

func trackingEntry(b []byte) (*networkpb.Entry, error) {
	if len(b) < nfgenSize {
		return nil, fmt.Errorf("tracked connection of %d bytes: %w", len(b), sdk.ErrCorrupt)
	}
	all, err := attributes(b[nfgenSize:])
	if err != nil {
		return nil, err
	}
	return &networkpb.Entry{
		Table: networkpb.Table_TABLE_CONNTRACK, Header: b[:nfgenSize:nfgenSize], Attributes: only(all, keptTracking...),
	}, nil
}

// restoreTracking makes tracked connections.
func restoreTracking(c *netlink.Conn, entries []*networkpb.Entry) error {
	for _, e := range entries {
		list, err := trackable(e.GetAttributes())
		if err != nil {
			return err
		}
		if err := change(c, subsysTracking<<8|trackingNew, netlink.Create|netlink.Replace, e.GetHeader(), list); err != nil {
			return fmt.Errorf("track connection: %w", err)
		}
	}
	return nil
}

// trackable turns what was read into what makes the same. Where an address is
// translated, the kernel wants the replies as they would be without that, and what
// it is to become (ctnetlink_create_conntrack, nf_nat_setup_info). What TCP has seen
// is taken only as far as its mask says, which it gives as zero.
func trackable(list []*networkpb.Attribute) ([]*networkpb.Attribute, error) {
	list, err := replace(list, ctaProtoInfo, func(info []*networkpb.Attribute) ([]*networkpb.Attribute, error) {
		return replace(info, ctaProtoInfoTCP, func(tcp []*networkpb.Attribute) ([]*networkpb.Attribute, error) {
			for _, a := range only(tcp, tcpFlagsOriginal, tcpFlagsReply) {
				if len(a.GetValue()) == 2 {
					a.Value = []byte{a.GetValue()[0], 0xff}
				}
			}
			return tcp, nil
		})
	})
	status := numberBE(list, ctaStatus)
	if err != nil || status&(statusSrcNAT|statusDstNAT) == 0 {
		return list, err
	}
	var translations []*networkpb.Attribute
	for _, nat := range []struct {
		bit, attr        uint32
		v4, v6, portFrom uint32
	}{
		{statusSrcNAT, ctaNATSrc, ctaV4Dst, ctaV6Dst, ctaDstPort}, // replies go to the new source
		{statusDstNAT, ctaNATDst, ctaV4Src, ctaV6Src, ctaSrcPort}, // and come from the new destination
	} {
		if status&nat.bit == 0 {
			continue
		}
		a, err := translation(list, nat.attr, nat.v4, nat.v6, nat.portFrom)
		if err != nil {
			return nil, err
		}
		translations = append(translations, a)
	}
	plain, err := inverse(find(list, ctaTupleOrig))
	if err != nil {
		return nil, err
	}
	list = append(without(list, ctaTupleReply), &networkpb.Attribute{Type: ctaTupleReply | unix.NLA_F_NESTED, Value: plain})
	return append(list, translations...), nil
}

// replace changes the attributes inside of one, if it is there.
func replace(list []*networkpb.Attribute, typ uint32,
	change func([]*networkpb.Attribute) ([]*networkpb.Attribute, error)) ([]*networkpb.Attribute, error) {
	out := make([]*networkpb.Attribute, len(list))
	for i, a := range list {
		out[i] = a
		if a.GetType()&typeMask != typ {
			continue
		}
		inside, err := attributes(a.GetValue())
		if err == nil {
			inside, err = change(inside)
		}
		if err != nil {
			return nil, err
		}
		v, err := encode(inside)
		if err != nil {
			return nil, err
		}
		out[i] = &networkpb.Attribute{Type: a.GetType(), Value: v}
	}
	return out, nil
}

// inverse turns a tuple into that of the replies.
func inverse(tuple []byte) ([]byte, error) {
	swap := func(pairs map[uint32]uint32) func([]*networkpb.Attribute) ([]*networkpb.Attribute, error) {
		return func(list []*networkpb.Attribute) ([]*networkpb.Attribute, error) {
			for _, a := range list {
				if to, ok := pairs[a.GetType()&typeMask]; ok {
					a.Type = a.GetType()&^typeMask | to
				}
				if t := a.GetType() & typeMask; (t == ctaICMPType || t == ctaICMPv6Type) && len(a.GetValue()) == 1 {
					if reply, ok := icmpReplies[a.GetValue()[0]]; ok {
						a.Value = []byte{reply}
					}
				}
			}
			return list, nil
		}
	}
	list, err := attributes(tuple)
	if err != nil {
		return nil, err
	}
	if list, err = replace(list, ctaTupleIP, swap(map[uint32]uint32{
		ctaV4Src: ctaV4Dst, ctaV4Dst: ctaV4Src, ctaV6Src: ctaV6Dst, ctaV6Dst: ctaV6Src,
	})); err != nil {
		return nil, err
	}
	if list, err = replace(list, ctaTupleL4, swap(map[uint32]uint32{
		ctaSrcPort: ctaDstPort, ctaDstPort: ctaSrcPort,
	})); err != nil {
		return nil, err
	}
	return encode(list)
}

// icmpReplies are the types of the answers to ICMP messages of some types.
var icmpReplies = map[byte]byte{8: 0, 13: 14, 15: 16, 17: 18, 128: 129}

// translation makes the attribute that says what an address was changed into.
func translation(list []*networkpb.Attribute, attr, v4, v6, port uint32) (*networkpb.Attribute, error) {
	reply, err := findNested(list, ctaTupleReply)
	if err != nil {
		return nil, err
	}
	ip, err := findNested(reply, ctaTupleIP)
	if err != nil {
		return nil, err
	}
	l4, err := findNested(reply, ctaTupleL4)
	if err != nil {
		return nil, err
	}
	var to []*networkpb.Attribute
	if a := find(ip, v4); a != nil {
		to = append(to, &networkpb.Attribute{Type: natV4Min, Value: a}, &networkpb.Attribute{Type: natV4Max, Value: a})
	}
	if a := find(ip, v6); a != nil {
		to = append(to, &networkpb.Attribute{Type: natV6Min, Value: a}, &networkpb.Attribute{Type: natV6Max, Value: a})
	}
	if p := find(l4, port); p != nil {
		a, err := nested(natProto, &networkpb.Attribute{Type: natPortMin, Value: p}, &networkpb.Attribute{Type: natPortMax, Value: p})
		if err != nil {
			return nil, err
		}
		to = append(to, a)
	}
	return nested(attr, to...)
}
