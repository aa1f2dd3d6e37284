package network

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
)

// table is one of the kernel's tables of which the entries are read, made and
// removed by messages of one form.
type table struct {
	id   networkpb.Table
	name string
	// get, add and del are the types of messages.
	get, add, del uint16
	// header is the size of the family's header in bytes, ask what a list is
	// asked for with.
	header int
	ask    []byte
	// settle takes away what is not a setting. It returns false for what the
	// kernel keeps itself.
	settle func(e *networkpb.Entry) bool
	// volatile are attributes that are kept but count down.
	volatile []uint32
}

// Attributes and flags that x/sys lacks or names otherwise (linux/if_addr.h,
// linux/fib_rules.h, linux/nexthop.h, linux/rtnetlink.h, linux/neighbor.h).
const (
	ifaTargetNetNSID = 10

	ifaKept = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR |
		unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

	fraPad       = 18
	fraKeptFlags = 0x2 // FIB_RULE_INVERT

	nhaScopeAt, nhaFlagsAt  = 1, 4
	nhaGroup, nhaResGroup   = 2, 12
	nhaID, nhaFDB           = 1, 11
	rtaPad, rtaUID, rtaNHID = 18, 25, 30
	rtaExpires              = 23
	rtaExpiresAt            = 8 // in struct rta_cacheinfo
	userHZ                  = 100

	ndmStateAt, ndmFlagsAt = 8, 10
	ntfSelf, ntfProxy      = 0x02, 0x08
	ndaFlagsExt            = 15
)

// tables are in the order in which they are made.
var tables = []*table{
	{
		id: networkpb.Table_TABLE_ADDRESS, name: "address", header: unix.SizeofIfAddrmsg,
		get: unix.RTM_GETADDR, add: unix.RTM_NEWADDR, del: unix.RTM_DELADDR,
		settle: settleAddress, volatile: []uint32{unix.IFA_CACHEINFO},
	},
	{
		id: networkpb.Table_TABLE_RULE, name: "rule", header: unix.SizeofRtMsg,
		get: unix.RTM_GETRULE, add: unix.RTM_NEWRULE, del: unix.RTM_DELRULE, settle: settleRule,
	},
	{
		id: networkpb.Table_TABLE_NEXTHOP, name: "nexthop", header: 8,
		get: unix.RTM_GETNEXTHOP, add: unix.RTM_NEWNEXTHOP, del: unix.RTM_DELNEXTHOP, settle: settleNexthop,
	},
	{
		id: networkpb.Table_TABLE_ROUTE, name: "route", header: unix.SizeofRtMsg,
		get: unix.RTM_GETROUTE, add: unix.RTM_NEWROUTE, del: unix.RTM_DELROUTE,
		settle: settleRoute, volatile: []uint32{rtaExpires},
	},
	{
		id: networkpb.Table_TABLE_NEIGHBOR, name: "neighbor", header: unix.SizeofNdMsg,
		get: unix.RTM_GETNEIGH, add: unix.RTM_NEWNEIGH, del: unix.RTM_DELNEIGH, settle: settleNeighbor,
	},
	{
		id: networkpb.Table_TABLE_PROXY, name: "proxy neighbor", header: unix.SizeofNdMsg,
		get: unix.RTM_GETNEIGH, add: unix.RTM_NEWNEIGH, del: unix.RTM_DELNEIGH,
		ask: []byte{ndmFlagsAt: ntfProxy, unix.SizeofNdMsg - 1: 0}, settle: settleProxy,
	},
	{
		id: networkpb.Table_TABLE_FORWARDING, name: "forwarding entry", header: unix.SizeofNdMsg,
		get: unix.RTM_GETNEIGH, add: unix.RTM_NEWNEIGH, del: unix.RTM_DELNEIGH,
		ask: []byte{0: unix.AF_BRIDGE, unix.SizeofNdMsg - 1: 0}, settle: settleForwarding,
	},
}

func tableOf(id networkpb.Table) *table {
	for _, t := range tables {
		if t.id == id {
			return t
		}
	}
	return nil
}

// read reads a table.
func (t *table) read(c *netlink.Conn) ([]*networkpb.Entry, error) {
	ask := t.ask
	if ask == nil {
		ask = make([]byte, t.header)
	}
	messages, err := list(c, t.get, ask)
	if err != nil {
		if absent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("list each %s: %w", t.name, err)
	}
	var out []*networkpb.Entry
	for _, m := range messages {
		if len(m.Data) < t.header {
			return nil, fmt.Errorf("%s of %d bytes: %w", t.name, len(m.Data), sdk.ErrCorrupt)
		}
		e := &networkpb.Entry{Table: t.id, Header: slices.Clone(m.Data[:t.header])}
		if e.Attributes, err = attributes(m.Data[t.header:]); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		if t.settle(e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// same tells whether two entries are equal, apart from what counts down.
func (t *table) same(a, b *networkpb.Entry) bool {
	x, y := a.GetAttributes(), b.GetAttributes()
	if len(t.volatile) > 0 {
		x, y = without(x, t.volatile...), without(y, t.volatile...)
	}
	return bytes.Equal(a.GetHeader(), b.GetHeader()) && slices.EqualFunc(x, y, func(p, q *networkpb.Attribute) bool {
		return p.GetType() == q.GetType() && bytes.Equal(p.GetValue(), q.GetValue())
	})
}

// missing returns the entries of a that b lacks, in order. Equal entries count.
func (t *table) missing(a, b []*networkpb.Entry) []*networkpb.Entry {
	rest := slices.Clone(b)
	var out []*networkpb.Entry
	for _, e := range a {
		i := slices.IndexFunc(rest, func(o *networkpb.Entry) bool { return t.same(e, o) })
		if i < 0 {
			out = append(out, e)
			continue
		}
		rest = slices.Delete(rest, i, i+1)
	}
	return out
}

// reconcile makes a table what it was.
func (t *table) reconcile(c *netlink.Conn, want []*networkpb.Entry) error {
	have, err := t.read(c)
	if err != nil {
		return err
	}
	for _, e := range t.missing(have, want) {
		if err := change(c, t.del, 0, e.GetHeader(), e.GetAttributes()); err != nil && !gone(err) {
			return fmt.Errorf("remove %s: %w", describe(e), err)
		}
	}
	return untilDone(t.missing(want, have), func(e *networkpb.Entry) error {
		if err := t.make(c, e); err != nil {
			return fmt.Errorf("make %s: %w", describe(e), err)
		}
		return nil
	})
}

func (t *table) make(c *netlink.Conn, e *networkpb.Entry) error {
	const flags = netlink.Create | netlink.Replace
	switch {
	case t.id == networkpb.Table_TABLE_ROUTE:
		// Replacing would take the place of another route to the same network.
		err := change(c, t.add, netlink.Create|netlink.Append, e.GetHeader(), e.GetAttributes())
		if errors.Is(err, unix.EEXIST) {
			return nil // the kernel has made it meanwhile; it is compared later
		}
		return err
	case t.id == networkpb.Table_TABLE_RULE:
		return change(c, t.add, netlink.Create, e.GetHeader(), e.GetAttributes())
	case t.id == networkpb.Table_TABLE_ADDRESS && e.GetHeader()[0] == unix.AF_INET6:
		// It was in use: nobody is asked whether somebody else has it. Then it
		// gets back the flags that it had.
		quiet := append(without(e.GetAttributes(), unix.IFA_FLAGS),
			number(unix.IFA_FLAGS, findNumber(e.GetAttributes(), unix.IFA_FLAGS)|unix.IFA_F_NODAD))
		if err := change(c, t.add, flags, e.GetHeader(), quiet); err != nil {
			return err
		}
	}
	return change(c, t.add, flags, e.GetHeader(), e.GetAttributes())
}

// compare tells how a table differs from what it is to be.
func (t *table) compare(want, have []*networkpb.Entry) error {
	if lost := t.missing(want, have); len(lost) > 0 {
		return fmt.Errorf("%s is not there after it was made: %w", describe(lost[0]), sdk.ErrUnsupported)
	}
	if more := t.missing(have, want); len(more) > 0 {
		return fmt.Errorf("%s was not there, and stays: %w", describe(more[0]), sdk.ErrUnsupported)
	}
	return nil
}

// gone tells that what was to be removed was not there any more.
func gone(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ESRCH, unix.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
