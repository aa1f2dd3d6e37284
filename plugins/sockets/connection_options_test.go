package sockets

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
)

// TestConnectionOptions: what the program has set is as before.
func TestConnectionOptions(t *testing.T) {
	needConnections(t)
	c := connect(t, "v4")
	options := map[optionKey]int{
		{unix.SOL_TCP, unix.TCP_NODELAY}: 1, {unix.SOL_TCP, unix.TCP_KEEPIDLE}: 77, {unix.SOL_TCP, unix.TCP_USER_TIMEOUT}: 12345,
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE}: 1, {unix.SOL_IP, unix.IP_TOS}: 0x10, {unix.SOL_SOCKET, unix.SO_REUSEADDR}: 1,
		{unix.SOL_SOCKET, unix.SO_MARK}: 7,
	}
	for k, v := range options {
		set(t, c.fd, k.level, k.name, v)
	}
	congestion := "cubic"
	if now, _ := unix.GetsockoptString(c.fd, unix.SOL_TCP, unix.TCP_CONGESTION); now == congestion {
		congestion = "reno"
	}
	if err := unix.SetsockoptString(c.fd, unix.SOL_TCP, unix.TCP_CONGESTION, congestion); err != nil {
		t.Fatal(err)
	}
	before, _ := unix.GetsockoptTCPInfo(c.fd, unix.SOL_TCP, unix.TCP_INFO)
	c.carry()
	for k, v := range options {
		if now := get(t, c.fd, k.level, k.name); now != v {
			t.Errorf("option %v is %d, was %d", k, now, v)
		}
	}
	if now, _ := unix.GetsockoptString(c.fd, unix.SOL_TCP, unix.TCP_CONGESTION); now != congestion {
		t.Errorf("congestion control is %q, was %q", now, congestion)
	}
	after, _ := unix.GetsockoptTCPInfo(c.fd, unix.SOL_TCP, unix.TCP_INFO)
	if before.Options != after.Options || before.Snd_mss != after.Snd_mss {
		t.Errorf("options %#x and segments of %d, were %#x and %d", after.Options, after.Snd_mss, before.Options, before.Snd_mss)
	}
	c.talk()
}

// TestConnectionBothEnds carries both ends of connections at once.
func TestConnectionBothEnds(t *testing.T) {
	needConnections(t)
	var links []*link
	var fds []int
	for range 20 {
		c := connect(t, "v4")
		links, fds = append(links, c), append(fds, c.fd, c.peer)
	}
	out := links[3].write(links[3].fd, 1<<20)
	trip := fdtest.Dump(t, New(), carried, fds...)
	unlockLater(t, trip)
	trip.Restore()
	links[3].read(links[3].peer, out)
	for _, c := range links {
		c.talk()
	}
}

// TestConnectionGivenUp: with --tcp-close a connection reads as one that has
// ended, at the checkpoint or at the restore.
func TestConnectionGivenUp(t *testing.T) {
	c := connect(t, "v4")
	fdtest.Dump(t, New(), map[string]string{tcpClose: "true"}, c.fd).Restore()
	c.eof(c.fd)
	if err := unix.Send(c.fd, []byte("x"), unix.MSG_NOSIGNAL); err != unix.EPIPE {
		t.Errorf("send: %v", err)
	}
	c.eof(c.peer)
}
