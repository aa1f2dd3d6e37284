package procfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

const igmpHead = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"

func igmpText(groups []MulticastGroup) string {
	var out strings.Builder
	out.WriteString(igmpHead)
	for _, g := range groups {
		ip := g.Group.As4()
		fmt.Fprintf(&out, "%d\t%-10s: %5d      V3\n\t\t\t\t%08X %5d 0:00000000\t\t0\n",
			g.Index, g.Device, 1, binary.NativeEndian.Uint32(ip[:]), 1)
	}
	return out.String()
}

func igmp6Text(groups []MulticastGroup) string {
	var out strings.Builder
	for _, g := range groups {
		fmt.Fprintf(&out, "%-4d %-15s %x %5d 0000000C 0\n", g.Index, g.Device, g.Group.As16(), 1)
	}
	return out.String()
}

func TestParseIGMP(t *testing.T) {
	for name, c := range map[string]struct {
		text  func([]MulticastGroup) string
		parse func([]byte) ([]MulticastGroup, error)
		addr  string
	}{"igmp": {igmpText, ParseIGMP, "239.1.2.3"}, "igmp6": {igmp6Text, ParseIGMP6, "ff15::1:2"}} {
		want := []MulticastGroup{
			{Index: 1, Device: "lo", Group: netip.MustParseAddr(c.addr)},
			{Index: 22, Device: "eth0.100", Group: netip.MustParseAddr(c.addr).Next()},
		}
		got, err := c.parse([]byte(c.text(want)))
		if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
			t.Errorf("%s: got %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"x\n", "\t\t\t\t010000E0     1\n", "1\tlo :\n\t\t\t\t01000 1 0\n", "\n"} {
		if g, err := ParseIGMP([]byte(igmpHead + bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("igmp %q: %+v, %v", bad, g, err)
		}
	}
	for _, bad := range []string{"x\n", "1 lo ff02\n", "x lo ff020000000000000000000000000001 1\n"} {
		if g, err := ParseIGMP6([]byte(bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("igmp6 %q: %+v, %v", bad, g, err)
		}
	}
	if _, err := MulticastGroups(); err != nil {
		t.Error(err)
	}
}

func FuzzParseIGMP(f *testing.F) {
	f.Add([]byte(igmpHead+"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n"), false)
	f.Add([]byte("1    lo              ff020000000000000000000000000001     1 0000000C 0\n"), true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		parse, text := ParseIGMP, igmpText
		if v6 {
			parse, text = ParseIGMP6, igmp6Text
		}
		groups, err := parse(b)
		if err != nil {
			return
		}
		again, err := parse([]byte(text(groups)))
		if err != nil {
			t.Fatalf("%q: %v", text(groups), err)
		}
		for i := range groups {
			if groups[i] != again[i] {
				t.Fatalf("%+v became %+v", groups[i], again[i])
			}
		}
	})
}
