package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/procfs"
)

// TestRewrittenAddress: a listener and both ends of its connections get another
// address, in an image that can be restored to it.
func TestRewrittenAddress(t *testing.T) {
	needsConnections(t)
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "connections.py"), "20"}})
	s.ready()
	addresses := func(text string) int {
		count := 0
		for _, r := range s.sockets() {
			count += strings.Count(r, text)
		}
		return count
	}
	before := addresses("127.0.0.1:")
	s.checkpoint(carryConnections)
	res := run(t, firn(t), "restore", "-d", s.image, "--rewrite-addr", "127.0.0.1=::1")
	if res.Status == harness.StatusDone || !strings.Contains(res.Stderr, "one address is of IPv4") {
		t.Errorf("report:\n%s", res.Stderr)
	}
	s.restore("--rewrite-addr", "127.0.0.1=127.0.0.9")
	s.ticks(10)
	if now, old := addresses("127.0.0.9:"), addresses("127.0.0.1:"); now != before || old != 0 {
		t.Errorf("%d addresses are new, %d old ones are left, want %d and none", now, old, before)
	}
	var port int
	for _, r := range s.sockets() {
		if strings.HasSuffix(r, " LISTEN") {
			_, p, _ := strings.Cut(strings.Fields(r)[0], ":")
			port, _ = strconv.Atoi(p)
		}
	}
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.9:%d", port), grace)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// sockets are the TCP sockets of the root process: "LOCAL REMOTE STATE".
func (s *subject) sockets() []string {
	s.t.Helper()
	list, err := procfs.InetSockets("tcp")
	if err != nil {
		s.t.Fatal(err)
	}
	own := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.PID))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			own[to] = true
		}
	}
	var out []string
	for _, k := range list {
		if own[fmt.Sprintf("socket:[%d]", k.Ino)] {
			state := "CONNECTED"
			if k.State == 10 {
				state = "LISTEN"
			}
			out = append(out, fmt.Sprintf("%s %s %s", k.Local, k.Remote, state))
		}
	}
	return out
}
