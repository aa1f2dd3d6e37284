package time

import (
	"github.com/firn-cr/firn/plugins/time/timepb"
	"github.com/firn-cr/firn/sdk"
)

// kindClocks is the kind of the only record; its object is 0.
const kindClocks uint32 = 1

// hostClocks is the flag of a restore that leaves the clocks alone.
const hostClocks = "host-clocks"

// plugin has no state: all of a session is in its requests.
type plugin struct{}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "time",
		Version: "0.1.0",
		Summary: "monotonic clocks that go on, by time namespaces",
		Claims: []sdk.Claim{
			{Kind: sdk.KindNamespace, Namespace: "time"},
			{Kind: sdk.KindNamespace, Namespace: "time_for_children"},
		},
		Attends:      []sdk.Claim{{Kind: sdk.KindTask}},
		Records:      []sdk.RecordType{{Kind: kindClocks, Version: 1, Message: &timepb.Clocks{}}},
		Capabilities: []string{"CAP_SYS_ADMIN"},
	}
}
