package network

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
)

// settleAddress keeps an address of a device, without the state of its
// verification. Whether it is a secondary one follows from the order.
func settleAddress(e *networkpb.Entry) bool {
	h := e.GetHeader()
	if h[0] != unix.AF_INET && h[0] != unix.AF_INET6 {
		return false
	}
	flags := findNumber(e.GetAttributes(), unix.IFA_FLAGS) & ifaKept
	h[2] = byte(flags)
	e.Attributes = append(without(e.GetAttributes(), unix.IFA_FLAGS, ifaTargetNetNSID), number(unix.IFA_FLAGS, flags))
	if life := find(e.GetAttributes(), unix.IFA_CACHEINFO); len(life) >= unix.SizeofIfaCacheinfo {
		clear(life[8:]) // when it was made and changed
	}
	return true
}

// settleRule keeps a rule of the routing policy.
func settleRule(e *networkpb.Entry) bool {
	h := e.GetHeader()
	order.PutUint32(h[8:], order.Uint32(h[8:])&fraKeptFlags)
	e.Attributes = without(e.GetAttributes(), fraPad)
	return true
}

// settleNexthop keeps a nexthop object.
func settleNexthop(e *networkpb.Entry) bool {
	h := e.GetHeader()
	h[nhaScopeAt] = 0 // follows from the gateway
	order.PutUint32(h[nhaFlagsAt:], order.Uint32(h[nhaFlagsAt:])&unix.RTNH_F_ONLINK)
	e.Attributes = only(e.GetAttributes(), nhaID, nhaGroup, 3, 4, 5, 6, 7, 8, nhaFDB, nhaResGroup)
	return true
}

// settleRoute keeps a route that somebody has made, or the kernel for an address
// of a device; what it makes for its own addresses is not kept.
func settleRoute(e *networkpb.Entry) bool {
	h := e.GetHeader()
	flags := order.Uint32(h[8:])
	if h[0] != unix.AF_INET && h[0] != unix.AF_INET6 || flags&unix.RTM_F_CLONED != 0 {
		return false
	}
	list := uint32(h[4])
	if n := findNumber(e.GetAttributes(), unix.RTA_TABLE); n != 0 {
		list = n
	}
	if list == unix.RT_TABLE_LOCAL && h[5] == unix.RTPROT_KERNEL {
		return false
	}
	order.PutUint32(h[8:], flags&unix.RTNH_F_ONLINK)
	drop := []uint32{unix.RTA_CACHEINFO, rtaUID, rtaPad}
	if find(e.GetAttributes(), rtaNHID) != nil {
		drop = append(drop, unix.RTA_OIF, unix.RTA_GATEWAY, unix.RTA_VIA, unix.RTA_MULTIPATH, unix.RTA_ENCAP, unix.RTA_ENCAP_TYPE)
	}
	var expires uint32
	if c := find(e.GetAttributes(), unix.RTA_CACHEINFO); len(c) >= rtaExpiresAt+4 && h[0] == unix.AF_INET6 {
		if n := int32(order.Uint32(c[rtaExpiresAt:])); n > 0 {
			expires = uint32(n) / userHZ
		}
	}
	e.Attributes = without(e.GetAttributes(), drop...)
	if expires > 0 {
		e.Attributes = append(e.Attributes, number(rtaExpires, expires))
	}
	// struct rtnexthop: u16 length, u8 flags, u8 weight, u32 device.
	for hops := find(e.GetAttributes(), unix.RTA_MULTIPATH); len(hops) >= unix.SizeofRtNexthop; {
		hops[2] &= unix.RTNH_F_ONLINK
		n := (int(order.Uint16(hops)) + 3) &^ 3
		if n < unix.SizeofRtNexthop || n > len(hops) {
			break
		}
		hops = hops[n:]
	}
	return true
}

// settleNeighbor keeps a neighbor that does not have to be asked for.
func settleNeighbor(e *networkpb.Entry) bool {
	h := e.GetHeader()
	e.Attributes = without(e.GetAttributes(), unix.NDA_CACHEINFO, unix.NDA_PROBES)
	return (h[0] == unix.AF_INET || h[0] == unix.AF_INET6) && order.Uint16(h[ndmStateAt:])&unix.NUD_PERMANENT != 0
}

// settleProxy keeps an address for which the machine answers.
func settleProxy(e *networkpb.Entry) bool {
	h := e.GetHeader()
	e.Attributes = without(e.GetAttributes(), unix.NDA_CACHEINFO, unix.NDA_PROBES)
	return (h[0] == unix.AF_INET || h[0] == unix.AF_INET6) && h[ndmFlagsAt]&ntfProxy != 0
}

// settleForwarding keeps what somebody has told a bridge or a tunnel. The
// addresses of its ports a bridge knows itself.
func settleForwarding(e *networkpb.Entry) bool {
	h := e.GetHeader()
	state, self := order.Uint16(h[ndmStateAt:]), h[ndmFlagsAt]&ntfSelf != 0
	e.Attributes = without(e.GetAttributes(), unix.NDA_CACHEINFO, unix.NDA_PROBES)
	if find(e.GetAttributes(), unix.NDA_DST) != nil {
		return state&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0
	}
	return !self && state&unix.NUD_NOARP != 0
}

// isPortAddress tells whether a forwarding entry is for what a bridge takes for an
// address of its own.
func isPortAddress(header []byte) bool {
	return order.Uint16(header[ndmStateAt:])&unix.NUD_PERMANENT != 0 && header[ndmFlagsAt]&ntfSelf == 0
}

// describe names an entry for a message.
func describe(e *networkpb.Entry) string {
	t := tableOf(e.GetTable())
	if t == nil || len(e.GetHeader()) < t.header {
		return "entry"
	}
	h, a := e.GetHeader(), e.GetAttributes()
	at := func(typ uint32) string {
		if ip, ok := netip.AddrFromSlice(find(a, typ)); ok {
			return ip.String()
		}
		return ""
	}
	device := func(n uint32) string { return fmt.Sprintf(" of device %d", n) }
	switch e.GetTable() {
	case networkpb.Table_TABLE_ADDRESS:
		ip := at(unix.IFA_LOCAL)
		if ip == "" {
			ip = at(unix.IFA_ADDRESS)
		}
		return fmt.Sprintf("address %s/%d%s", ip, h[1], device(order.Uint32(h[4:])))
	case networkpb.Table_TABLE_ROUTE:
		to := "default"
		if ip := at(unix.RTA_DST); ip != "" {
			to = fmt.Sprintf("%s/%d", ip, h[1])
		}
		text := "route to " + to
		if via := at(unix.RTA_GATEWAY); via != "" {
			text += " via " + via
		}
		return text + fmt.Sprintf(" (table %d, protocol %d)", findNumber(a, unix.RTA_TABLE), h[5])
	case networkpb.Table_TABLE_RULE:
		return fmt.Sprintf("rule with priority %d", findNumber(a, unix.FRA_PRIORITY))
	case networkpb.Table_TABLE_NEXTHOP:
		return fmt.Sprintf("nexthop %d", findNumber(a, nhaID))
	}
	what := at(unix.NDA_DST)
	if mac := find(a, unix.NDA_LLADDR); mac != nil && what == "" {
		what = fmt.Sprintf("%x", mac)
	}
	return fmt.Sprintf("%s %s%s", t.name, what, device(order.Uint32(h[4:])))
}
