package sockets

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
)

// TestNewSocketHasNoOptions: what nobody set must not be in the image.
func TestNewSocketHasNoOptions(t *testing.T) {
	var d defaults
	for _, k := range []kindOfSocket{
		{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP}, {unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP},
		{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, {unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
		{unix.AF_UNIX, unix.SOCK_STREAM, 0}, {unix.AF_UNIX, unix.SOCK_DGRAM, 0}, {unix.AF_UNIX, unix.SOCK_SEQPACKET, 0},
	} {
		fd := socket(t, k.family, k.typ, k.protocol)
		defer unix.Close(fd)
		if o, err := d.changedOptions(fd, k); err != nil || len(o) != 0 {
			t.Errorf("%+v: %v, %v", k, o, err)
		}
		if b, err := d.readBuffers(fd, k); err != nil || b != nil {
			t.Errorf("%+v: %v, %v", k, b, err)
		}
	}
}

// testOptions are set by TestOptions, to something else than the default.
var testOptions = []struct{ level, name, value int }{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}, {unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}, {unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 5}, {unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_OLD, 1},
	{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1}, {unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, 17}, {unix.SOL_IPV6, unix.IPV6_TCLASS, 0x20},
	{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1}, {unix.SOL_IP, unix.IP_TOS, 0x10}, {unix.SOL_SOCKET, unix.SO_PRIORITY, 3},
	{unix.SOL_TCP, unix.TCP_NODELAY, 1}, {unix.SOL_TCP, unix.TCP_MAXSEG, 1200}, {unix.SOL_TCP, unix.TCP_KEEPIDLE, 33},
	{unix.SOL_TCP, unix.TCP_KEEPINTVL, 11}, {unix.SOL_TCP, unix.TCP_KEEPCNT, 4}, {unix.SOL_TCP, unix.TCP_SYNCNT, 3},
	{unix.SOL_TCP, unix.TCP_LINGER2, 9}, {unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 3}, {unix.SOL_TCP, unix.TCP_USER_TIMEOUT, 12345},
	{unix.SOL_TCP, unix.TCP_FASTOPEN, 8}, {unix.SOL_TCP, unix.TCP_NOTSENT_LOWAT, 4096}, {unix.SOL_TCP, unix.TCP_SAVE_SYN, 1},
}

func TestOptions(t *testing.T) {
	fd := socket(t, unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	for _, o := range testOptions {
		set(t, fd, o.level, o.name, o.value)
	}
	linger := unix.Linger{Onoff: 1, Linger: 42}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger); err != nil {
		t.Fatal(err)
	}
	timeout := unix.Timeval{Sec: 3, Usec: 500000}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION, "reno"); err != nil {
		t.Fatal(err)
	}
	addr := bindLocal(t, fd)
	listen(t, fd, 5)
	var want []int
	for _, o := range testOptions {
		want = append(want, get(t, fd, o.level, o.name))
	}
	fdtest.Dump(t, New(), nil, fd).Restore()
	for i, o := range testOptions {
		if got := get(t, fd, o.level, o.name); got != want[i] {
			t.Errorf("option %d of level %d: %d, want %d", o.name, o.level, got, want[i])
		}
	}
	if l, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER); err != nil || *l != linger {
		t.Errorf("linger %+v, %v", l, err)
	}
	if tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO); err != nil || *tv != timeout {
		t.Errorf("timeout %+v, %v", tv, err)
	}
	if cc, err := unix.GetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION); err != nil || cc != "reno" {
		t.Errorf("congestion control %q, %v", cc, err)
	}
	serveOnce(t, fd, addr)
}

// TestSpecialOptions: what is no plain option: buffers, filter, mode.
func TestSpecialOptions(t *testing.T) {
	fd := socket(t, unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	set(t, fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 100000)
	prog := []unix.SockFilter{{Code: 0x6, K: 0xffffffff}} // accept everything
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &prog[0]}); err != nil {
		t.Fatal(err)
	}
	set(t, fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1)
	if err := unix.Fchmod(fd, 0o600); err != nil {
		t.Fatal(err)
	}
	names := []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_BUF_LOCK, unix.SO_LOCK_FILTER}
	var want []int
	for _, n := range names {
		want = append(want, get(t, fd, unix.SOL_SOCKET, n))
	}
	if want[2] != 2 {
		t.Errorf("buffer lock %d", want[2])
	}
	fdtest.Dump(t, New(), nil, fd).Restore()
	for i, n := range names {
		if got := get(t, fd, unix.SOL_SOCKET, n); got != want[i] {
			t.Errorf("option %d: %d, want %d", n, got, want[i])
		}
	}
	if p, err := readFilter(fd); err != nil || len(p) != filterInsn {
		t.Errorf("filter %x, %v", p, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&0o777 != 0o600 {
		t.Errorf("mode %#o, %v", st.Mode, err)
	}
}
