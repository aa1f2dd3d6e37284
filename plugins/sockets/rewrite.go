package sockets

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
)

// rewriteOption replaces addresses of the image by others: for a machine that has
// another address, or another network.
const rewriteOption = "rewrite-addr"

// errPeerOutside: a connection keeps its address for the sake of its peer.
var errPeerOutside = errors.New("its peer is outside of the tree and knows the old address")

// readRewrites reads the values of --rewrite-addr, OLD=NEW.
func readRewrites(sess *sdk.Session) (map[netip.Addr]netip.Addr, error) {
	rules := map[netip.Addr]netip.Addr{}
	for _, v := range sess.OptionList(rewriteOption) {
		from, to, _ := strings.Cut(v, "=")
		was, err := netip.ParseAddr(from)
		now, err2 := netip.ParseAddr(to)
		was, now = was.Unmap(), now.Unmap()
		_, twice := rules[was]
		switch {
		case err != nil || err2 != nil || was.Zone() != "" || now.Zone() != "":
			return nil, fmt.Errorf("--%s %q: want OLD=NEW, two IP addresses", rewriteOption, v)
		case was.Is4() != now.Is4():
			return nil, fmt.Errorf("--%s %q: one address is of IPv4, the other of IPv6", rewriteOption, v)
		case twice:
			return nil, fmt.Errorf("--%s: %s is given twice", rewriteOption, was)
		}
		rules[was] = now
	}
	return rules, nil
}

// rewrite gives the sockets of an image other addresses, and marks the connections
// that cannot have one.
func (im *image) rewrite(rules map[netip.Addr]netip.Addr) {
	if len(rules) == 0 {
		return
	}
	within := map[tuple]bool{}
	for _, r := range im.inet {
		if r.msg.GetConnection() != nil {
			within[tuple{addrPort(r.msg.GetLocal()), addrPort(r.msg.GetRemote())}] = true
		}
	}
	for _, r := range im.inet {
		peer := tuple{addrPort(r.msg.GetRemote()), addrPort(r.msg.GetLocal())}
		moved := replace(rules, r.msg.GetLocal())
		moved = replace(rules, r.msg.GetRemote()) || moved
		if moved && r.msg.GetConnection() != nil && !within[peer] {
			r.rewritten = errPeerOutside
		}
		for _, d := range r.datagrams {
			replace(rules, d.GetFrom())
		}
	}
}

// replace changes an address, in the form that it had, and tells whether it did.
func replace(rules map[netip.Addr]netip.Addr, a *socketspb.InetAddress) bool {
	old, ok := netip.AddrFromSlice(a.GetIp())
	now, found := rules[old.Unmap()]
	if !ok || !found {
		return false
	}
	if old.Is4In6() {
		mapped := now.As16()
		a.Ip = mapped[:]
	} else {
		a.Ip = now.AsSlice()
	}
	return true
}
