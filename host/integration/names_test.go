package integration

import (
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestNames: names are bytes to the kernel, and need not be UTF-8.
func TestNames(t *testing.T) {
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "names.py")}})
	s.ready()
	s.checkpoint()
	s.restore()
	s.unharmed()
	if err := consecutive(s, "\xff\xfe name", ""); err != nil {
		t.Error(err)
	}
}
