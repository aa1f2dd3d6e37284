package network

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
)

// outsider is the end of a veth pair that is where firn runs.
type outsider struct {
	inner  *networkpb.Link
	name   string
	bridge string
}

// newOutsider finds out what the outer end of a device is to be: what it was, or
// what the caller wants: veth[DEVICE]:NAME or veth[DEVICE]:NAME@BRIDGE.
func newOutsider(sess *sdk.Session, l *networkpb.Link) (*outsider, error) {
	o := &outsider{inner: l, name: l.GetPeer().GetOutside().GetName(), bridge: l.GetPeer().GetBridge()}
	prefix := "veth[" + l.GetName() + "]"
	for _, v := range sess.OptionList(externalOption) {
		rest, ok := strings.CutPrefix(v, prefix)
		if !ok {
			continue
		}
		name, ok := strings.CutPrefix(rest, ":")
		o.name, o.bridge, _ = strings.Cut(name, "@")
		if !ok || o.name == "" || len(o.name) >= unix.IFNAMSIZ {
			return nil, fmt.Errorf("--%s %q: want %s:NAME or %s:NAME@BRIDGE", externalOption, v, prefix, prefix)
		}
	}
	return o, nil
}

// raise lets the other end have a carrier, without which the kernel refuses some
// routes. Without addresses and outside of its bridge it gets no packets yet.
func (o *outsider) raise() (err error) {
	c, err := dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return change(c, unix.RTM_NEWLINK, 0, linkHeader(0, unix.IFF_UP, unix.IFF_UP), []*networkpb.Attribute{text(unix.IFLA_IFNAME, o.name)})
}

// goLive lets packets in: the device gets its place, its addresses and its flags.
func (o *outsider) goLive() (err error) {
	c, err := dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	links, err := readLinks(c)
	if err != nil {
		return err
	}
	it := byName(links, o.name)
	if it == nil {
		return fmt.Errorf("device %s is gone: %w", o.name, sdk.ErrChanged)
	}
	was := o.inner.GetPeer().GetOutside()
	change := differing(was, it.Link)
	if o.bridge != "" {
		b := byName(links, o.bridge)
		if b == nil {
			return fmt.Errorf("bridge %s is gone: %w", o.bridge, sdk.ErrChanged)
		}
		change = append(change, number(unix.IFLA_MASTER, b.GetIndex()))
	}
	if err := setLink(c, it.GetIndex(), 0, 0, change); err != nil {
		return fmt.Errorf("set device %s: %w", o.name, err)
	}
	for _, a := range o.inner.GetPeer().GetAddresses() {
		header := append([]byte(nil), a.GetHeader()...)
		order.PutUint32(header[4:], it.GetIndex())
		if err := tableOf(a.GetTable()).make(c, &networkpb.Entry{Table: a.GetTable(), Header: header, Attributes: a.GetAttributes()}); err != nil {
			return fmt.Errorf("device %s: make %s: %w", o.name, describe(a), err)
		}
	}
	if err := setLink(c, it.GetIndex(), was.GetFlags(), settableFlags, nil); err != nil {
		return fmt.Errorf("set flags of device %s: %w", o.name, err)
	}
	return nil
}

// setLink changes a device: the flags in mask, and attributes.
func setLink(c *netlink.Conn, index, flags, mask uint32, list []*networkpb.Attribute) error {
	if mask == 0 && len(list) == 0 {
		return nil
	}
	return change(c, unix.RTM_NEWLINK, 0, linkHeader(index, flags, mask), list)
}

// linkHeader makes struct ifinfomsg.
func linkHeader(index, flags, mask uint32) []byte {
	h := make([]byte, 4, unix.SizeofIfInfomsg)
	h = order.AppendUint32(h, index)
	h = order.AppendUint32(h, flags)
	return order.AppendUint32(h, mask)
}
