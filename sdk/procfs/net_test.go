package procfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

const inetHead = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// inetLine is a line as the kernel writes it on this machine.
func inetLine(s InetSocket) string {
	addr := func(a netip.AddrPort) (out string) {
		b := a.Addr().AsSlice()
		for ; len(b) > 0; b = b[4:] {
			out += fmt.Sprintf("%08X", binary.NativeEndian.Uint32(b))
		}
		return fmt.Sprintf("%s:%04X", out, a.Port())
	}
	return fmt.Sprintf("   0: %s %s %02X 00000000:00000000 00:00000000 00000000 %5d        0 %d 1 0000000004ee242e 100 0 0 10 0\n",
		addr(s.Local), addr(s.Remote), s.State, s.UID, s.Ino)
}

func TestParseInetSockets(t *testing.T) {
	want := []InetSocket{
		{Local: netip.MustParseAddrPort("127.0.0.1:2024"), Remote: netip.MustParseAddrPort("0.0.0.0:0"), State: 10, Ino: 1579},
		{Local: netip.MustParseAddrPort("10.0.0.2:44"), Remote: netip.MustParseAddrPort("10.0.0.9:5432"), State: 1, UID: 1000, Ino: 99},
		{Local: netip.MustParseAddrPort("[fe80::1]:65535"), Remote: netip.MustParseAddrPort("[::]:0"), State: 7, UID: 1<<32 - 1},
	}
	text := inetHead
	for _, s := range want {
		text += inetLine(s)
	}
	got, err := ParseInetSockets([]byte(text))
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d sockets, %v", len(got), err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	for _, bad := range []string{"x\n", "0: 0100007F:07E8 00000000:0000 0A\n",
		"0: 0100007F 00000000:0000 0A 0:0 00:0 0 0 0 1\n", "0: 0100007:07E8 00000000:0000 0A 0:0 00:0 0 0 0 1\n"} {
		if _, err := ParseInetSockets([]byte(inetHead + bad)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, name := range []string{"tcp", "udp"} {
		if _, err := InetSockets(name); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseInetSockets(f *testing.F) {
	f.Add([]byte(inetHead + "   0: 0100007F:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1579 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		socks, err := ParseInetSockets(b)
		if err != nil {
			return
		}
		out := inetHead
		for _, s := range socks {
			out += inetLine(s)
		}
		again, err := ParseInetSockets([]byte(out))
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		for i := range socks {
			if socks[i] != again[i] {
				t.Fatalf("%+v became %+v", socks[i], again[i])
			}
		}
	})
}
