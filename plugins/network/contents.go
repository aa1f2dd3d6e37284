package network

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk/namespace"
)

// conns are open for one namespace.
type conns struct {
	ns            *os.File
	route, filter *netlink.Conn
}

// connect opens what a namespace is read and changed by. The namespace stays open
// until close.
func connect(ns *os.File) (*conns, error) {
	c := &conns{ns: ns}
	var err error
	if c.route, err = dial(unix.NETLINK_ROUTE, ns); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	if c.filter, err = dial(unix.NETLINK_NETFILTER, ns); err != nil && !absent(err) {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *conns) close() error {
	err := c.route.Close()
	if c.filter != nil {
		err = errors.Join(err, c.filter.Close())
	}
	return errors.Join(err, c.ns.Close())
}

// contents is what is in a namespace.
type contents struct {
	links    []*link
	entries  map[networkpb.Table][]*networkpb.Entry
	nft      []*networkpb.Nftables
	sysctls  []*networkpb.Sysctl
	refusals []string
}

func (c *contents) refuse(format string, args ...any) {
	c.refusals = append(c.refusals, fmt.Sprintf(format, args...))
}

// read reads everything. Settings are those that differ from fresh ones; nil leaves
// them out.
func (c *conns) read(fresh settings) (*contents, error) {
	out := &contents{entries: map[networkpb.Table][]*networkpb.Entry{}}
	var err error
	if out.links, err = readLinks(c.route); err != nil {
		return nil, err
	}
	for _, l := range out.links {
		if l.refusal != "" {
			out.refuse("device %s: %s", l.GetName(), l.refusal)
		}
	}
	for _, t := range tables {
		if out.entries[t.id], err = t.read(c.route); err != nil {
			return nil, err
		}
	}
	if err := c.readRest(out); err != nil {
		return nil, err
	}
	if fresh == nil {
		return out, nil
	}
	return out, namespace.Within(c.ns, func() error {
		all, err := readSettings()
		out.sysctls = all.changed(fresh, names(out.links))
		return err
	})
}

func names(links []*link) []string {
	var out []string
	for _, l := range links {
		out = append(out, l.GetName())
	}
	return out
}

// readRest reads what belongs to netfilter, and what makes a namespace one that
// cannot be carried.
func (c *conns) readRest(out *contents) error {
	if c.filter != nil {
		rules, err := readRuleset(c.filter)
		if err != nil {
			return err
		}
		out.nft = rules.objects
		out.refusals = append(out.refusals, rules.refusals...)
		if err := c.readTracking(out); err != nil {
			return err
		}
	}
	return errors.Join(c.findQueueing(out), c.findPolicies(out), c.findLegacy(out), c.findOwnAddresses(out))
}

// findQueueing refuses queueing disciplines that somebody has set: those that the
// kernel has chosen have no handle.
func (c *conns) findQueueing(out *contents) error {
	const size, indexAt, handleAt, kindAttr = 20, 4, 8, 1 // struct tcmsg, TCA_KIND
	messages, err := list(c.route, unix.RTM_GETQDISC, make([]byte, size))
	if err != nil {
		return ignore(fmt.Errorf("list queueing disciplines: %w", err), unix.EOPNOTSUPP)
	}
	for _, m := range messages {
		if len(m.Data) < size || order.Uint32(m.Data[handleAt:]) == 0 {
			continue
		}
		list, err := attributes(m.Data[size:])
		if err != nil {
			return err
		}
		out.refuse("device %s: has the queueing discipline %s", out.deviceName(order.Uint32(m.Data[indexAt:])), findString(list, kindAttr))
	}
	return nil
}

// findOwnAddresses refuses addresses that a bridge takes for its own though no
// device has them: it would forget them.
func (c *conns) findOwnAddresses(out *contents) error {
	t := tableOf(networkpb.Table_TABLE_FORWARDING)
	messages, err := list(c.route, t.get, t.ask)
	if err != nil {
		return ignore(fmt.Errorf("list each %s: %w", t.name, err), unix.EOPNOTSUPP)
	}
	for _, m := range messages {
		if len(m.Data) < t.header || !isPortAddress(m.Data) {
			continue
		}
		list, err := attributes(m.Data[t.header:])
		if err != nil {
			return err
		}
		mac := find(list, unix.NDA_LLADDR)
		if !slices.ContainsFunc(out.links, func(l *link) bool { return bytes.Equal(find(l.GetAttributes(), unix.IFLA_ADDRESS), mac) }) {
			out.refuse("device %s: has the permanent forwarding entry %x", out.deviceName(order.Uint32(m.Data[4:])), mac)
		}
	}
	return nil
}

func (c *contents) deviceName(index uint32) string {
	if l := byIndex(c.links, index); l != nil {
		return l.GetName()
	}
	return fmt.Sprint(index)
}

// findPolicies refuses IPsec.
func (c *conns) findPolicies(out *contents) (err error) {
	const getSA, getPolicy = 0x12, 0x15 // XFRM_MSG_GETSA, XFRM_MSG_GETPOLICY
	x, err := dial(unix.NETLINK_XFRM, c.ns)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	for _, typ := range []uint16{getSA, getPolicy} {
		found, err := list(x, typ, nil)
		if err != nil {
			return fmt.Errorf("list IPsec policies: %w", err)
		}
		if len(found) > 0 {
			out.refuse("IPsec: has %d states or policies", len(found))
		}
	}
	return nil
}

// findLegacy refuses rules of the iptables that came before nftables: a name is
// in these files as soon as a table is used.
func (c *conns) findLegacy(out *contents) error {
	return namespace.Within(c.ns, func() error {
		for _, family := range []string{"ip", "ip6", "arp"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + family + "_tables_names")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("iptables: %w", err)
			}
			if len(text) > 0 {
				out.refuse("iptables: %stables has rules of its own; use iptables-nft", family)
			}
		}
		return nil
	})
}
