// Package gate decides whether a kernel test can run where it is.
//
// A test asks for what it needs: a capability or a feature of the kernel. What
// is missing skips the test, unless the environment variable
// FIRN_TEST_MUST_RUN is 1: then it fails, so that a machine that is meant to
// run everything cannot pass by skipping.
package gate

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// MustRun is the environment variable that turns skips into failures.
const MustRun = "FIRN_TEST_MUST_RUN"

// Cap lets the test go on only if the calling thread has the capability (a
// unix.CAP_ constant) in its effective set.
func Cap(t testing.TB, capability int) {
	t.Helper()
	has, err := effective(capability)
	if err != nil {
		t.Fatalf("gate: read capabilities: %v", err)
	}
	if !has {
		missing(t, "capability %d", capability)
	}
}

// Feature lets the test go on only if ok is true; name says what is missing.
func Feature(t testing.TB, name string, ok bool) {
	t.Helper()
	if !ok {
		missing(t, "%s", name)
	}
}

func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(MustRun) == "1" {
		t.Fatalf("missing "+format+" although "+MustRun+" is set", args...)
	}
	t.Skipf("missing "+format, args...)
}

func effective(capability int) (bool, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false, err
	}
	if capability < 0 || capability > unix.CAP_LAST_CAP {
		return false, nil
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0, nil
}
