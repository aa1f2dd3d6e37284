package integration

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// startMaps starts the subject "bpfmaps".
func startMaps(t *testing.T) *subject {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	return startC(t, "bpfmaps")
}

// TestBPFMaps: BPF maps with all of their entries, one of them open twice.
func TestBPFMaps(t *testing.T) { startMaps(t).survives() }
