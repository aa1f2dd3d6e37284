package sockets

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
)

// TestRewrite: both ends of a connection in the image get the address, mapped
// ones too; one whose peer is outside must not.
func TestRewrite(t *testing.T) {
	address := func(text string) *socketspb.InetAddress {
		a := netip.MustParseAddrPort(text)
		return &socketspb.InetAddress{Ip: a.Addr().AsSlice(), Port: uint32(a.Port())}
	}
	connection := func(local, remote string) *inetRecord {
		return &inetRecord{msg: &socketspb.Inet{Local: address(local), Remote: address(remote), Connection: &socketspb.Connection{}}}
	}
	listener := &inetRecord{msg: &socketspb.Inet{Local: address("10.0.0.1:80"), Listening: true}}
	one, other := connection("10.0.0.1:80", "10.0.0.1:1234"), connection("[::ffff:10.0.0.1]:1234", "[::ffff:10.0.0.1]:80")
	outside, untouched := connection("10.0.0.1:80", "10.9.9.9:99"), connection("10.0.0.3:80", "10.9.9.9:98")
	datagram := &inetRecord{
		msg:       &socketspb.Inet{Local: address("10.0.0.1:53"), Socket: &socketspb.Socket{Type: unix.SOCK_DGRAM}},
		datagrams: []*socketspb.Datagram{{From: address("10.0.0.1:999")}},
	}
	im := &image{inet: []*inetRecord{listener, one, other, outside, untouched, datagram}}
	rules, err := readRewrites(&sdk.Session{Options: map[string]string{rewriteOption: "10.0.0.1=10.0.0.2"}})
	if err != nil {
		t.Fatal(err)
	}
	im.rewrite(rules)
	for i, want := range []string{"10.0.0.2:80", "10.0.0.2:80", "10.0.0.2:1234", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.2:53"} {
		if got := addrPort(im.inet[i].msg.GetLocal()).String(); got != want {
			t.Errorf("socket %d is at %s, want %s", i, got, want)
		}
	}
	if n := len(other.msg.GetLocal().GetIp()); n != 16 {
		t.Errorf("a mapped address has %d bytes", n)
	}
	if got := addrPort(datagram.datagrams[0].GetFrom()).String(); got != "10.0.0.2:999" {
		t.Errorf("a datagram is from %s", got)
	}
	for i, r := range im.inet {
		if refused := errors.Is(r.rewritten, errPeerOutside); refused != (r == outside) {
			t.Errorf("socket %d: %v", i, r.rewritten)
		}
	}
	for value, want := range map[string]string{
		"10.0.0.1": "want OLD=NEW", "a=b": "want OLD=NEW", "10.0.0.1=::1": "the other of IPv6", "::1%lo=::2": "want OLD=NEW",
		"10.0.0.1=10.0.0.2\n10.0.0.1=10.0.0.3": "given twice",
	} {
		_, err := readRewrites(&sdk.Session{Options: map[string]string{rewriteOption: value}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", value, err, want)
		}
	}
}
