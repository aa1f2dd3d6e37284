package network

import (
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
)

// device is one that is to be made.
type device struct {
	in *saved
	*networkpb.Link
}

// untilDone does something with each of a list, in order; what is refused is
// tried again as long as something else succeeds: one may need another.
func untilDone[T any](todo []T, do func(T) error) error {
	for len(todo) > 0 {
		var refused []T
		var last error
		for _, t := range todo {
			if err := do(t); err != nil {
				refused, last = append(refused, t), err
			}
		}
		if len(refused) == len(todo) {
			return last
		}
		todo = refused
	}
	return nil
}

// makeLinks makes all devices under their numbers. They stay down.
func (p *plugin) makeLinks(sess *sdk.Session, all []*saved) error {
	var todo []device
	for _, s := range all {
		for _, l := range s.links {
			second := l.GetKind() == kindVeth && l.GetPeer().GetNamespace() != 0 &&
				(l.GetPeer().GetNamespace() < s.res.Object || l.GetPeer().GetNamespace() == s.res.Object && l.GetPeer().GetIndex() < l.GetIndex())
			if !isLoopback(l) && !second { // the second end of a pair comes with the first
				todo = append(todo, device{s, l})
			}
		}
	}
	return untilDone(todo, func(d device) error {
		if err := makeLink(sess, all, d); err != nil {
			return fmt.Errorf("make device %s: %w", d.GetName(), err)
		}
		if d.GetPeer().GetOutside() == nil {
			return nil
		}
		out, err := newOutsider(sess, d.Link)
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.outside = append(p.outside, out)
		p.mu.Unlock()
		if err := out.raise(); err != nil {
			return fmt.Errorf("raise the other end of device %s: %w", d.GetName(), err)
		}
		return nil
	})
}

func makeLink(sess *sdk.Session, all []*saved, d device) error {
	var inside []*networkpb.Attribute
	data := d.GetData()
	if d.GetKind() == kindVeth {
		peer, err := otherEnd(sess, all, d)
		if err != nil {
			return err
		}
		defer peer.ns.Close()
		if data, err = peer.encode(); err != nil {
			return err
		}
	}
	inside = append(inside, text(unix.IFLA_INFO_KIND, d.GetKind()))
	if data != nil {
		inside = append(inside, &networkpb.Attribute{Type: unix.IFLA_INFO_DATA | unix.NLA_F_NESTED, Value: data})
	}
	info, err := nested(unix.IFLA_LINKINFO, inside...)
	if err != nil {
		return err
	}
	list := append([]*networkpb.Attribute{text(unix.IFLA_IFNAME, d.GetName())}, only(d.GetAttributes(), createAttributes...)...)
	if d.GetLower() != 0 {
		list = append(list, number(unix.IFLA_LINK, d.GetLower()))
	}
	return change(d.in.conns.route, unix.RTM_NEWLINK, netlink.Create|netlink.Excl, linkHeader(d.GetIndex(), 0, 0), append(list, info))
}

// pairEnd is the other end of a pair that is to be made.
type pairEnd struct {
	name       string
	index      uint32
	ns         *os.File
	attributes []*networkpb.Attribute
}

// otherEnd says where the other end of a pair will be, and what it will be like.
func otherEnd(sess *sdk.Session, all []*saved, d device) (*pairEnd, error) {
	if d.GetPeer().GetNamespace() == 0 {
		out, err := newOutsider(sess, d.Link)
		if err != nil {
			return nil, err
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return nil, fmt.Errorf("open namespace: %w", err)
		}
		return &pairEnd{name: out.name, ns: ns, attributes: d.GetPeer().GetOutside().GetAttributes()}, nil
	}
	s, l := findLink(all, d.GetPeer().GetNamespace(), d.GetPeer().GetIndex())
	fd, err := unix.FcntlInt(s.conns.ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return &pairEnd{name: l.GetName(), index: l.GetIndex(), ns: os.NewFile(uintptr(fd), "namespace"), attributes: l.GetAttributes()}, nil
}

// encode makes IFLA_INFO_DATA of a veth device.
func (e *pairEnd) encode() ([]byte, error) {
	list, err := encode(append(only(e.attributes, createAttributes...),
		text(unix.IFLA_IFNAME, e.name), number(unix.IFLA_NET_NS_FD, uint32(e.ns.Fd()))))
	if err != nil {
		return nil, err
	}
	return encode([]*networkpb.Attribute{{
		Type: vethInfoPeer | unix.NLA_F_NESTED, Value: append(linkHeader(e.index, 0, 0), list...),
	}})
}

// configure gives the devices of a namespace everything else, but lets them stay
// down.
func (s *saved) configure() error {
	have, err := readLinks(s.conns.route)
	if err != nil {
		return err
	}
	return untilDone(s.links, func(l *networkpb.Link) error {
		now := byIndex(have, l.GetIndex())
		if now == nil {
			return fmt.Errorf("device %s is not there: %w", l.GetName(), sdk.ErrChanged)
		}
		list := differing(l, now.Link)
		if l.GetMaster() != 0 {
			list = append(list, number(unix.IFLA_MASTER, l.GetMaster()))
		}
		if err := setLink(s.conns.route, l.GetIndex(), 0, 0, list); err != nil {
			return fmt.Errorf("set device %s: %w", l.GetName(), err)
		}
		if err := s.setPort(l); err != nil {
			return fmt.Errorf("set device %s as a port: %w", l.GetName(), err)
		}
		for _, name := range l.GetAlternativeNames() {
			if err := s.addName(l, name); err != nil {
				return fmt.Errorf("name device %s %s: %w", l.GetName(), name, err)
			}
		}
		return nil
	})
}

// setPort gives a bridge's port its settings.
func (s *saved) setPort(l *networkpb.Link) error {
	if len(l.GetPort()) == 0 {
		return nil
	}
	info, err := nested(unix.IFLA_LINKINFO, text(unix.IFLA_INFO_SLAVE_KIND, kindBridge),
		&networkpb.Attribute{Type: unix.IFLA_INFO_SLAVE_DATA | unix.NLA_F_NESTED, Value: l.GetPort()})
	if err != nil {
		return err
	}
	return setLink(s.conns.route, l.GetIndex(), 0, 0, []*networkpb.Attribute{info})
}

func (s *saved) addName(l *networkpb.Link, name string) error {
	const newLinkProp = 108 // RTM_NEWLINKPROP
	list, err := nested(unix.IFLA_PROP_LIST, text(unix.IFLA_ALT_IFNAME, name))
	if err != nil {
		return err
	}
	return change(s.conns.route, newLinkProp, netlink.Create|netlink.Excl, linkHeader(l.GetIndex(), 0, 0), []*networkpb.Attribute{list})
}

// raise gives the devices their flags: they go up.
func (s *saved) raise() error {
	return untilDone(s.links, func(l *networkpb.Link) error {
		if err := setLink(s.conns.route, l.GetIndex(), l.GetFlags(), settableFlags, nil); err != nil {
			return fmt.Errorf("set flags of device %s: %w", l.GetName(), err)
		}
		return nil
	})
}
