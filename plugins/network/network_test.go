package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// newSpace makes a network namespace, in which nobody lives.
func newSpace(t *testing.T) *conns {
	t.Helper()
	var ns *os.File
	err := kern.OnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := connect(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// sh runs a script in a namespace and returns what it prints.
func (c *conns) sh(t *testing.T, text string) string {
	t.Helper()
	var out []byte
	err := namespace.Within(c.ns, func() (err error) {
		out, err = exec.Command("sh", "-ec", text).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// look reads a namespace.
func look(t *testing.T, p *plugin, c *conns) *contents {
	t.Helper()
	fresh, err := p.freshSettings()
	if err != nil {
		t.Fatal(err)
	}
	now, err := c.read(fresh)
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// take reads a namespace as if it came from an image.
func take(t *testing.T, p *plugin, from, to *conns) *saved {
	t.Helper()
	c := look(t, p, from)
	if len(c.refusals) > 0 {
		t.Fatal(c.refusals)
	}
	s := &saved{
		res: &sdk.Resource{Object: 7}, first: &sdk.Process{}, record: &networkpb.Namespace{},
		entries: c.entries, nft: c.nft, sysctls: c.sysctls, conns: to,
	}
	for _, l := range c.links {
		if l.GetKind() == kindVeth {
			l.Peer = &networkpb.Peer{Namespace: 7, Index: l.GetLower()}
			l.Lower = 0
		}
		s.links = append(s.links, l.Link)
	}
	return s
}

const setup = `
ip link add v0 type veth peer name v1
ip link add b0 type bridge
ip link set v1 master b0
ip link set lo up
ip link set v0 up mtu 1400
ip link set v1 up
ip link set b0 up
ip addr add 10.9.0.1/24 dev v0
ip -6 addr add fd00::1/64 dev v0 nodad
ip route add 10.77.0.0/16 via 10.9.0.99
ip rule add from 10.1.2.3 table 7 priority 500
ip neigh add 10.9.0.99 lladdr 02:00:00:00:00:99 dev v0
bridge fdb add 02:00:00:00:00:55 dev v1 master static
echo 4321 > /proc/sys/net/core/somaxconn
nft add table inet filter
nft add set inet filter s '{ type ipv4_addr; elements = { 10.0.0.1, 10.0.0.2 }; }'
nft add chain inet filter input '{ type filter hook input priority 0; }'
nft add rule inet filter input ip saddr @s tcp dport '{ 1, 2 }' drop
for i in $(seq 2000); do echo "add rule inet filter input tcp dport $i counter packets $i bytes 0 drop"; done | nft -f -
`

// TestMakeAgain makes a namespace from what was read in another one. Then every
// change of it must show in the comparison.
func TestMakeAgain(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	gate.Cap(t, unix.CAP_NET_ADMIN)
	p := &plugin{}
	from, to := newSpace(t), newSpace(t)
	from.sh(t, setup)
	s := take(t, p, from, to)
	if err := p.makeLinks(&sdk.Session{}, []*saved{s}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(*saved) error{p.raiseAll, p.fill, p.verify} {
		if err := step(s); err != nil {
			t.Fatal(err)
		}
	}
	const rules = "nft -s list ruleset"
	if got, want := to.sh(t, rules), from.sh(t, rules); got != want || !strings.Contains(got, "@s") {
		t.Errorf("nftables:\n%s\nwant\n%s", got, want)
	}
	for _, c := range []struct{ damage, repair, word string }{
		{"ip route del 10.77.0.0/16", "ip route add 10.77.0.0/16 via 10.9.0.99", "route to 10.77.0.0/16 via 10.9.0.99"},
		{"ip route add 10.5.0.0/16 via 10.9.0.99", "ip route del 10.5.0.0/16", "route to 10.5.0.0/16"},
		{"ip addr add 10.4.0.1/24 dev b0", "ip addr del 10.4.0.1/24 dev b0", "address 10.4.0.1/24"},
		{"ip rule del priority 500", "ip rule add from 10.1.2.3 table 7 priority 500", "rule with priority 500"},
		{"ip neigh del 10.9.0.99 dev v0", "ip neigh add 10.9.0.99 lladdr 02:00:00:00:00:99 dev v0", "neighbor 10.9.0.99"},
		{"bridge fdb del 02:00:00:00:00:55 dev v1 master", "bridge fdb add 02:00:00:00:00:55 dev v1 master static", "forwarding entry 020000000055"},
		{"ip link set v0 mtu 1300", "ip link set v0 mtu 1400", "device v0"},
		{"ip link set v0 down", "ip link set v0 up", "device v0 is not what it was: flags"},
		{"bridge link set dev v1 cost 9", "bridge link set dev v1 cost 2", "settings as a port"},
		{"echo 4000 > /proc/sys/net/core/somaxconn", "echo 4321 > /proc/sys/net/core/somaxconn", "core/somaxconn"},
		{"echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save", "echo 0 > /proc/sys/net/ipv4/tcp_no_metrics_save", "tcp_no_metrics_save"},
	} {
		to.sh(t, c.damage)
		if err := s.compare(look(t, p, to)); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("after %q: %v", c.damage, err)
		}
		to.sh(t, c.repair)
		if err := s.reconcile(); err != nil { // what went with it
			t.Errorf("after %q: %v", c.repair, err)
		}
	}
	if err := s.compare(look(t, p, to)); err != nil {
		t.Error(err)
	}
}

// TestTracked makes tracked connections, one of which has another source address
// for its peer.
func TestTracked(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	gate.Cap(t, unix.CAP_NET_ADMIN)
	p := &plugin{}
	from, to := newSpace(t), newSpace(t)
	from.sh(t, `
ip link set lo up
ip addr add 10.9.0.1/32 dev lo
ip addr add 10.9.0.2/32 dev lo
nft add table ip nat
nft add chain ip nat out '{ type nat hook postrouting priority 100; }'
nft add rule ip nat out ip daddr 10.9.0.2 udp dport 4711 snat to 10.9.0.1:7777
python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b"x", ("10.9.0.2", 4711))
s.sendto(b"x", ("10.9.0.1", 4712))'
`)
	s := take(t, p, from, to)
	tracked := s.entries[networkpb.Table_TABLE_CONNTRACK]
	translated := 0
	for _, e := range tracked {
		if numberBE(e.GetAttributes(), ctaStatus)&statusSrcNAT != 0 {
			translated++
		}
	}
	if len(tracked) < 2 || translated != 1 {
		t.Fatalf("%d connections are tracked, %d translated", len(tracked), translated)
	}
	to.sh(t, "ip link set lo up")
	if err := restoreTracking(to.filter, tracked); err != nil {
		t.Fatal(err)
	}
	again := take(t, p, to, nil).entries[networkpb.Table_TABLE_CONNTRACK]
	key := func(list []*networkpb.Entry) (out []string) {
		for _, e := range list {
			out = append(out, fmt.Sprintf("%x %x %x", find(e.GetAttributes(), 1), find(e.GetAttributes(), ctaTupleReply),
				numberBE(e.GetAttributes(), ctaStatus)&(statusSrcNAT|statusDstNAT)))
		}
		slices.Sort(out)
		return out
	}
	if a, b := key(tracked), key(again); !slices.Equal(a, b) {
		t.Errorf("tracked connections:\n%s\nwant\n%s", strings.Join(b, "\n"), strings.Join(a, "\n"))
	}
}

func TestOfDefault(t *testing.T) {
	for path, want := range map[string]string{
		"ipv4/conf/eth0/rp_filter":     "ipv4/conf/default/rp_filter",
		"ipv6/neigh/eth0/gc_stale":     "ipv6/neigh/lo/gc_stale",
		"ipv4/conf/all/rp_filter":      "ipv4/conf/all/rp_filter",
		"ipv4/ip_forward":              "ipv4/ip_forward",
		"ipv4/conf/eth1/eth0/anything": "ipv4/conf/eth1/eth0/anything",
	} {
		if got := ofDefault(path, []string{"lo0", "eth0"}); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// request is that of a restore of a namespace with some records.
func request(t *testing.T, messages map[uint32][]proto.Message) *sdk.RestoreRequest {
	t.Helper()
	records := &tracetest.Records{}
	for _, kind := range []uint32{kindNamespace, kindLink, kindEntry, kindNftables, kindSysctls} {
		for _, m := range messages[kind] {
			if err := records.Emit(context.Background(), kind, 9, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &sdk.RestoreRequest{Records: records, Session: &sdk.Session{
		Tree: &sdk.Tree{Root: 1, Processes: []sdk.Process{{ID: 1, PID: os.Getpid()}}},
		Resources: []sdk.Resource{{Kind: sdk.KindNamespace, Object: 9, Namespace: &sdk.Namespace{
			Name: "net", Tasks: []sdk.TaskID{1},
		}}},
	}}
}

func TestCorruptImage(t *testing.T) {
	veth := func(p *networkpb.Peer) *networkpb.Link {
		return &networkpb.Link{Index: 2, Name: "v", Kind: "veth", Peer: p}
	}
	ns := []proto.Message{&networkpb.Namespace{}}
	for name, m := range map[string]map[uint32][]proto.Message{
		"no record":        {},
		"no number":        {kindNamespace: ns, kindLink: {&networkpb.Link{Name: "v"}}},
		"no name":          {kindNamespace: ns, kindLink: {&networkpb.Link{Index: 1}}},
		"long name":        {kindNamespace: ns, kindLink: {&networkpb.Link{Index: 1, Name: strings.Repeat("x", 16)}}},
		"kind":             {kindNamespace: ns, kindLink: {&networkpb.Link{Index: 1, Name: "v", Kind: "wireguard"}}},
		"no other end":     {kindNamespace: ns, kindLink: {veth(nil)}},
		"other end alone":  {kindNamespace: ns, kindLink: {veth(&networkpb.Peer{Namespace: 9, Index: 3})}},
		"other end's name": {kindNamespace: ns, kindLink: {veth(&networkpb.Peer{Outside: &networkpb.Link{Index: 4}})}},
		"other end's address": {kindNamespace: ns, kindLink: {veth(&networkpb.Peer{
			Outside: &networkpb.Link{Index: 4, Name: "o"}, Addresses: []*networkpb.Entry{{Table: networkpb.Table_TABLE_ROUTE}}})}},
		"table":        {kindNamespace: ns, kindEntry: {&networkpb.Entry{Table: 99}}},
		"header":       {kindNamespace: ns, kindEntry: {&networkpb.Entry{Table: networkpb.Table_TABLE_ROUTE, Header: make([]byte, 11)}}},
		"tracked":      {kindNamespace: ns, kindEntry: {&networkpb.Entry{Table: networkpb.Table_TABLE_CONNTRACK, Header: make([]byte, 5)}}},
		"attribute":    {kindNamespace: ns, kindLink: {&networkpb.Link{Index: 1, Name: "v", Attributes: []*networkpb.Attribute{{Type: 1 << 16}}}}},
		"nftables":     {kindNamespace: ns, kindNftables: {&networkpb.Nftables{Type: 2}}},
		"setting":      {kindNamespace: ns, kindSysctls: {&networkpb.Sysctls{Sysctls: []*networkpb.Sysctl{{Path: "../kernel/hostname"}}}}},
		"setting's /":  {kindNamespace: ns, kindSysctls: {&networkpb.Sysctls{Sysctls: []*networkpb.Sysctl{{Path: "/kernel/hostname"}}}}},
		"long setting": {kindNamespace: ns, kindLink: {&networkpb.Link{Index: 1, Name: "v", Attributes: []*networkpb.Attribute{{Value: make([]byte, 1<<16)}}}}},
	} {
		if _, err := (&plugin{}).CheckImage(context.Background(), request(t, m)); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := map[uint32][]proto.Message{kindNamespace: ns, kindLink: {&networkpb.Link{Index: 1, Name: "lo"}}}
	if found, err := (&plugin{}).CheckImage(context.Background(), request(t, good)); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// TestRulesetChanges reads nftables while somebody makes and removes a table all the
// time: what is read belongs together.
func TestRulesetChanges(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	gate.Cap(t, unix.CAP_NET_ADMIN)
	c := newSpace(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = namespace.Within(c.ns, func() error {
					return exec.Command("sh", "-c", `echo 'table inet other {
	chain input {
		type filter hook input priority 0;
		tcp dport 1 drop
	}
}' | nft -f -; nft delete table inet other`).Run()
				})
			}
		}
	}()
	whole := 0
	for range 300 {
		rules, err := readRuleset(c.filter)
		if errors.Is(err, sdk.ErrChanged) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		whole++
		if n := len(rules.objects); n != 0 && n != 3 {
			t.Errorf("%d objects, want a table, a chain and a rule, or nothing: %v", n, rules.objects)
		}
	}
	close(stop)
	<-stopped
	if whole < 100 {
		t.Errorf("nftables were read %d times only", whole)
	}
}
