package integration

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func startPackets(t *testing.T) *subject {
	gate.Cap(t, unix.CAP_NET_RAW)
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "packets.py")}})
	s.ready()
	return s
}

// TestPackets: packet sockets see what they saw before, each packet once.
func TestPackets(t *testing.T) { startPackets(t).survives() }
