package network

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
)

// saved is a namespace of an image.
type saved struct {
	res     *sdk.Resource
	first   *sdk.Process
	record  *networkpb.Namespace
	links   []*networkpb.Link
	entries map[networkpb.Table][]*networkpb.Entry
	nft     []*networkpb.Nftables
	sysctls []*networkpb.Sysctl
	// conns are open while it is made.
	conns *conns
}

// load reads and checks the records of all namespaces.
func load(req *sdk.RestoreRequest) ([]*saved, error) {
	var all []*saved
	for i := range req.Resources {
		r := &req.Resources[i]
		members := namespace.Members(req.Session, r)
		if len(members) == 0 {
			continue
		}
		s := &saved{res: r, first: members[0], entries: map[networkpb.Table][]*networkpb.Entry{}}
		for rec, err := range req.Records.Object(r.Object) {
			if err == nil {
				err = s.add(rec)
			}
			if err != nil {
				return nil, fmt.Errorf("network namespace of task %d: %w", members[0].ID, err)
			}
		}
		if s.record == nil {
			return nil, fmt.Errorf("network namespace of task %d: no record of object %d: %w", members[0].ID, r.Object, sdk.ErrCorrupt)
		}
		all = append(all, s)
	}
	for _, s := range all {
		for _, l := range s.links {
			if err := checkPeer(all, s, l); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// add takes one record over.
func (s *saved) add(r sdk.Record) error {
	switch r.Kind {
	case kindNamespace:
		s.record = &networkpb.Namespace{}
		return r.Decode(s.record)
	case kindLink:
		l := &networkpb.Link{}
		if err := r.Decode(l); err != nil {
			return err
		}
		s.links = append(s.links, l)
		return validLink(l)
	case kindEntry:
		e := &networkpb.Entry{}
		if err := r.Decode(e); err != nil {
			return err
		}
		s.entries[e.GetTable()] = append(s.entries[e.GetTable()], e)
		return validEntry(e)
	case kindNftables:
		o := &networkpb.Nftables{}
		if err := r.Decode(o); err != nil {
			return err
		}
		s.nft = append(s.nft, o)
		if !slices.ContainsFunc(nftKinds, func(k *nftKind) bool { return uint32(k.add) == o.GetType() }) || o.GetFamily() > 0xff {
			return fmt.Errorf("nftables object of type %d: %w", o.GetType(), sdk.ErrCorrupt)
		}
		return validAttributes(o.GetAttributes())
	case kindSysctls:
		m := &networkpb.Sysctls{}
		if err := r.Decode(m); err != nil {
			return err
		}
		s.sysctls = append(s.sysctls, m.GetSysctls()...)
		for _, c := range m.GetSysctls() {
			if strings.HasPrefix(c.GetPath(), "/") || slices.Contains(strings.Split(c.GetPath(), "/"), "..") {
				return fmt.Errorf("setting %q: %w", c.GetPath(), sdk.ErrCorrupt)
			}
		}
	}
	return nil
}

func validLink(l *networkpb.Link) error {
	if l.GetIndex() == 0 || l.GetName() == "" || len(l.GetName()) >= unix.IFNAMSIZ ||
		l.GetKind() != "" && !slices.Contains(carriedKinds, l.GetKind()) {
		return fmt.Errorf("device %d %q of kind %q: %w", l.GetIndex(), l.GetName(), l.GetKind(), sdk.ErrCorrupt)
	}
	for _, e := range l.GetPeer().GetAddresses() {
		if e.GetTable() != networkpb.Table_TABLE_ADDRESS {
			return fmt.Errorf("address of device %q: %w", l.GetName(), sdk.ErrCorrupt)
		}
		if err := validEntry(e); err != nil {
			return err
		}
	}
	if o := l.GetPeer().GetOutside(); o != nil {
		if err := validLink(o); err != nil {
			return err
		}
	}
	return validAttributes(l.GetAttributes())
}

func validEntry(e *networkpb.Entry) error {
	size := nfgenSize
	if e.GetTable() != networkpb.Table_TABLE_CONNTRACK {
		t := tableOf(e.GetTable())
		if t == nil {
			return fmt.Errorf("entry of table %d: %w", e.GetTable(), sdk.ErrCorrupt)
		}
		size = t.header
	}
	if len(e.GetHeader()) != size {
		return fmt.Errorf("header of %d bytes: %w", len(e.GetHeader()), sdk.ErrCorrupt)
	}
	return validAttributes(e.GetAttributes())
}

func validAttributes(list []*networkpb.Attribute) error {
	for _, a := range list {
		if a.GetType() > 0xffff || len(a.GetValue()) > 0xfff0 {
			return fmt.Errorf("attribute %d of %d bytes: %w", a.GetType(), len(a.GetValue()), sdk.ErrCorrupt)
		}
	}
	return nil
}

// checkPeer makes sure that both ends of a pair name each other.
func checkPeer(all []*saved, s *saved, l *networkpb.Link) error {
	if l.GetKind() != kindVeth {
		return nil
	}
	corrupt := fmt.Errorf("the other end of device %q: %w", l.GetName(), sdk.ErrCorrupt)
	p := l.GetPeer()
	if p.GetNamespace() == 0 {
		if p.GetOutside() == nil {
			return corrupt
		}
		return nil
	}
	_, o := findLink(all, p.GetNamespace(), p.GetIndex())
	if o.GetPeer().GetNamespace() != s.res.Object || o.GetPeer().GetIndex() != l.GetIndex() {
		return corrupt
	}
	return nil
}

func findLink(all []*saved, object uint64, index uint32) (*saved, *networkpb.Link) {
	for _, s := range all {
		if s.res.Object != object {
			continue
		}
		for _, l := range s.links {
			if l.GetIndex() == index {
				return s, l
			}
		}
	}
	return nil, nil
}

// imageCheck finds out whether the outer ends of pairs could be made.
type imageCheck struct {
	own      []*link
	findings []sdk.Finding
}

func (c *imageCheck) readOwn() error {
	own, err := dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	c.own, err = readLinks(own)
	return errors.Join(err, own.Close())
}

func (c *imageCheck) block(s *saved, text, help string) {
	c.findings = append(c.findings, sdk.Finding{
		Level: sdk.LevelBlock, Task: s.first.ID, Object: s.res.Object, Subject: subject, Text: text, Help: help,
	})
}

// vanishing is how long a device may take that went with the checkpointed tree:
// the kernel clears namespaces away in its own time.
const vanishing = 3 * time.Second

func (c *imageCheck) check(sess *sdk.Session, s *saved) error {
	for _, l := range s.links {
		if l.GetPeer().GetOutside() == nil {
			continue
		}
		out, err := newOutsider(sess, l)
		if err != nil {
			c.block(s, err.Error(), "")
			continue
		}
		for deadline := time.Now().Add(vanishing); c.has(out.name) && time.Now().Before(deadline); time.Sleep(vanishing / 100) {
			if err := c.readOwn(); err != nil {
				return err
			}
		}
		if c.has(out.name) {
			c.block(s, fmt.Sprintf("device %s: this machine has a device %s already", l.GetName(), out.name),
				fmt.Sprintf("--%s 'veth[%s]:NAME@BRIDGE': give the other end another name; or, if the namespace still exists, --%s net:PATH",
					externalOption, l.GetName(), namespace.JoinOption))
		}
		if out.bridge != "" && !c.has(out.bridge) {
			c.block(s, fmt.Sprintf("device %s: there is no bridge %s for its other end", l.GetName(), out.bridge),
				fmt.Sprintf("make it, or --%s 'veth[%s]:%s': do without", externalOption, l.GetName(), out.name))
		}
	}
	return nil
}

func (c *imageCheck) has(name string) bool { return byName(c.own, name) != nil }
