package network

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
)

// Kinds of devices (IFLA_INFO_KIND) of which something must be known here.
const (
	kindVeth   = "veth"
	kindBridge = "bridge"
	kindVXLAN  = "vxlan"
)

// carriedKinds are kinds whose settings the kernel takes as it gives them. The
// loopback device has none.
var carriedKinds = []string{
	kindBridge, "dummy", "ifb", "ipvlan", "macvlan", kindVeth, "vlan", "vrf", kindVXLAN,
}

// Attributes of links that x/sys lacks (linux/if_link.h).
const (
	iflaGROMaxSize     = 58
	iflaGSOIPv4MaxSize = 63
	iflaGROIPv4MaxSize = 64
	iflaXDPAttached    = 2
	inet6Token         = 7 // IFLA_INET6_TOKEN
	vethInfoPeer       = 1
)

// keptAttributes are settings of a link that are kept as they are;
// createAttributes those of them that must be given when it is made.
var (
	keptAttributes = []uint32{
		unix.IFLA_ADDRESS, unix.IFLA_BROADCAST, unix.IFLA_MTU, unix.IFLA_TXQLEN, unix.IFLA_LINKMODE, unix.IFLA_IFALIAS,
		unix.IFLA_GROUP, unix.IFLA_NUM_TX_QUEUES, unix.IFLA_NUM_RX_QUEUES, unix.IFLA_GSO_MAX_SEGS, unix.IFLA_GSO_MAX_SIZE,
		iflaGROMaxSize, iflaGSOIPv4MaxSize, iflaGROIPv4MaxSize,
	}
	createAttributes = []uint32{unix.IFLA_ADDRESS, unix.IFLA_MTU, unix.IFLA_NUM_TX_QUEUES, unix.IFLA_NUM_RX_QUEUES}
)

// bridgeState are attributes of a bridge that say how it is doing, and one that is
// always off here; keptPort those of a bridge's port that can be set
// (linux/if_link.h).
var (
	bridgeState = []uint32{bridgeVLANFiltering, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 40, 47, 48}
	keptPort    = []uint32{2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 25, 27, 28, 29, 30, 31, 32, 33, 37, 39, 40, 42, 43}
)

const (
	bridgeVLANFiltering = 7  // IFLA_BR_VLAN_FILTERING
	bridgeOptions       = 46 // IFLA_BR_MULTI_BOOLOPT, struct br_boolopt_multi
	vxlanTTLInherit     = 28 // IFLA_VXLAN_TTL_INHERIT

	vxlanRemoteChecksumTX, vxlanRemoteChecksumRX = 21, 22 // IFLA_VXLAN_REMCSUM_*
)

// settableFlags are those IFF_* that somebody sets.
const settableFlags = unix.IFF_UP | unix.IFF_NOARP | unix.IFF_PROMISC | unix.IFF_ALLMULTI | unix.IFF_MULTICAST | unix.IFF_DYNAMIC

// link is a device that was read.
type link struct {
	*networkpb.Link
	// lowerID is the kernel's number of the namespace in which the device below is;
	// elsewhere tells that it is not the device's own.
	lowerID   uint32
	elsewhere bool
	// refusal is why it cannot be carried.
	refusal string
}

// readLinks reads the devices of a namespace.
func readLinks(c *netlink.Conn) ([]*link, error) {
	messages, err := list(c, unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg))
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	out := make([]*link, 0, len(messages))
	for _, m := range messages {
		l, err := parseLink(m.Data)
		if err != nil {
			return nil, fmt.Errorf("device: %w", err)
		}
		out = append(out, l)
	}
	return out, nil
}

// byIndex finds a device by its number; nil if there is none.
func byIndex(links []*link, index uint32) *link {
	for _, l := range links {
		if l.GetIndex() == index {
			return l
		}
	}
	return nil
}

// byName finds a device by its name; nil if there is none.
func byName(links []*link, name string) *link {
	for _, l := range links {
		if l.GetName() == name {
			return l
		}
	}
	return nil
}

// parseLink reads struct ifinfomsg and what is behind it:
//
//	0 u8 family  2 u16 type  4 s32 index  8 u32 flags  12 u32 change
func parseLink(b []byte) (*link, error) {
	if len(b) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("message of %d bytes: %w", len(b), sdk.ErrCorrupt)
	}
	all, err := attributes(b[unix.SizeofIfInfomsg:])
	if err != nil {
		return nil, err
	}
	l := &link{Link: &networkpb.Link{
		Index: order.Uint32(b[4:]), Flags: order.Uint32(b[8:]) & settableFlags, Name: findString(all, unix.IFLA_IFNAME),
		Lower: findNumber(all, unix.IFLA_LINK), Master: findNumber(all, unix.IFLA_MASTER), Attributes: only(all, keptAttributes...),
	}}
	l.elsewhere = find(all, unix.IFLA_LINK_NETNSID) != nil
	l.lowerID = findNumber(all, unix.IFLA_LINK_NETNSID)
	if l.Lower == l.Index && !l.elsewhere {
		l.Lower = 0 // itself: it is on nothing
	}
	info, err := findNested(all, unix.IFLA_LINKINFO)
	if err != nil {
		return nil, err
	}
	l.Kind, l.Data = findString(info, unix.IFLA_INFO_KIND), find(info, unix.IFLA_INFO_DATA)
	names, err := findNested(all, unix.IFLA_PROP_LIST)
	if err != nil {
		return nil, err
	}
	for _, a := range only(names, unix.IFLA_ALT_IFNAME) {
		l.AlternativeNames = append(l.AlternativeNames, unix.ByteSliceToString(a.GetValue()))
	}
	slices.Sort(l.AlternativeNames)
	switch l.Kind {
	case kindBridge:
		l.Data, err = filtered(l.Data, l.settleBridge)
	case kindVXLAN:
		l.Data, err = filtered(l.Data, settleVXLAN)
	}
	if err != nil {
		return nil, err
	}
	if findString(info, unix.IFLA_INFO_SLAVE_KIND) == kindBridge {
		if l.Port, err = filtered(find(info, unix.IFLA_INFO_SLAVE_DATA), func(list []*networkpb.Attribute) []*networkpb.Attribute {
			return only(list, keptPort...)
		}); err != nil {
			return nil, err
		}
	}
	return l, l.refuse(b, all, info)
}

// settleBridge takes away what is not a setting of a bridge.
func (l *link) settleBridge(list []*networkpb.Attribute) []*networkpb.Attribute {
	if v := find(list, bridgeVLANFiltering); len(v) > 0 && v[0] != 0 {
		l.refusal = "filters VLANs"
	}
	// The mask has every option that this kernel knows; it refuses some of them even
	// if they stay off.
	if v := find(list, bridgeOptions); len(v) >= 8 {
		copy(v[4:8], v[:4])
	}
	return without(list, bridgeState...)
}

// settleVXLAN makes a flag of what the kernel gives as a number and takes as a flag,
// and leaves out what counts as used although it is off (vxlan_nl2conf).
func settleVXLAN(list []*networkpb.Attribute) []*networkpb.Attribute {
	on := find(list, vxlanTTLInherit)
	list = without(list, vxlanTTLInherit)
	if len(on) > 0 && on[0] != 0 {
		list = append(list, &networkpb.Attribute{Type: vxlanTTLInherit})
	}
	return slices.DeleteFunc(list, func(a *networkpb.Attribute) bool {
		offload := a.GetType() == vxlanRemoteChecksumTX || a.GetType() == vxlanRemoteChecksumRX
		return offload && len(a.GetValue()) == 1 && a.GetValue()[0] == 0
	})
}

// filtered changes attributes that are inside of one.
func filtered(b []byte, change func([]*networkpb.Attribute) []*networkpb.Attribute) ([]byte, error) {
	list, err := attributes(b)
	if err != nil {
		return nil, err
	}
	return encode(change(list))
}

// refuse finds out why a device cannot be carried.
func (l *link) refuse(b []byte, all, info []*networkpb.Attribute) error {
	xdp, err := findNested(all, unix.IFLA_XDP)
	if err != nil {
		return err
	}
	families, err := findNested(all, unix.IFLA_AF_SPEC)
	if err != nil {
		return err
	}
	six, err := findNested(families, unix.AF_INET6)
	if err != nil {
		return err
	}
	slave := findString(info, unix.IFLA_INFO_SLAVE_KIND)
	token := bytes.Trim(find(six, inet6Token), "\x00")
	switch attached := find(xdp, iflaXDPAttached); {
	case l.refusal != "":
	case len(attached) > 0 && attached[0] != 0:
		l.refusal = "has an XDP program"
	case len(token) > 0:
		l.refusal = "has an IPv6 token"
	case l.Master != 0 && slave != "" && slave != kindBridge && slave != "vrf":
		l.refusal = "belongs to a device of kind " + slave
	case l.Kind == "" && order.Uint16(b[2:]) == unix.ARPHRD_LOOPBACK:
	case l.Kind == "":
		l.refusal = "is a device of the machine"
	case !slices.Contains(carriedKinds, l.Kind):
		l.refusal = "its kind " + l.Kind + " is not carried"
	case l.Kind != kindVeth && l.elsewhere:
		l.refusal = fmt.Sprintf("is a %s on a device of another namespace", l.Kind)
	}
	return nil
}

// isLoopback tells that a device is there without being made.
func isLoopback(l *networkpb.Link) bool { return l.GetKind() == "" }

// sameLink tells whether two devices are equal; empty if they are, else what
// differs.
func sameLink(a, b *networkpb.Link) string {
	switch {
	case a.GetIndex() != b.GetIndex():
		return "number"
	case a.GetKind() != b.GetKind():
		return "kind"
	case a.GetFlags() != b.GetFlags():
		return fmt.Sprintf("flags %#x, want %#x", b.GetFlags(), a.GetFlags())
	case a.GetMaster() != b.GetMaster():
		return "the device to which it belongs"
	case a.GetLower() != b.GetLower():
		return "the device below"
	case !slices.Equal(a.GetAlternativeNames(), b.GetAlternativeNames()):
		return "alternative names"
	case !bytes.Equal(a.GetData(), b.GetData()):
		return "settings of its kind"
	case !bytes.Equal(a.GetPort(), b.GetPort()):
		return "settings as a port"
	}
	for _, x := range differing(a, b) {
		return fmt.Sprintf("attribute %d", x.GetType())
	}
	return ""
}

// differing are the attributes of a that b has otherwise.
func differing(a, b *networkpb.Link) []*networkpb.Attribute {
	var out []*networkpb.Attribute
	for _, x := range a.GetAttributes() {
		if !bytes.Equal(find(b.GetAttributes(), x.GetType()), x.GetValue()) {
			out = append(out, x)
		}
	}
	return out
}
