package restore

import (
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/sdk"
)

// TestNewNamespaceNumbers: in a new PID namespace all numbers are free but that
// of the init, and nobody is in the restorer's session.
func TestNewNamespaceNumbers(t *testing.T) {
	r := &flow{pidns: pidns.New(nil)}
	n, err := r.numbers()
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.outside()
	if err != nil || out.Session != 0 || out.Group != 0 || out.Used(2) || !out.Used(pidns.InitID) {
		t.Errorf("outside %+v: %v", out, err)
	}
	tree := &sdk.Tree{Root: 2, Processes: []sdk.Process{{ID: 2, Threads: []sdk.Thread{{ID: 2}, {ID: 3}}}}}
	if lines := n.conflicts(tree); len(lines) != 0 {
		t.Errorf("conflicts %v", lines)
	}
	tree.Processes = append(tree.Processes, sdk.Process{ID: pidns.InitID, Parent: 2})
	lines := n.conflicts(tree)
	if len(lines) != 1 || !strings.Contains(lines[0].String(), "without --new-pid-namespace") {
		t.Errorf("conflicts %v", lines)
	}
}
