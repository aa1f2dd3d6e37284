package uts

import (
	"github.com/firn-cr/firn/plugins/uts/utspb"
	"github.com/firn-cr/firn/sdk"
)

// kindNamespace is the kind of the only record.
const kindNamespace uint32 = 1

// plugin has no state: all of a session is in its requests.
type plugin struct{}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:         "uts",
		Version:      "0.1.0",
		Summary:      "host and domain names of UTS namespaces",
		Claims:       []sdk.Claim{{Kind: sdk.KindNamespace, Namespace: "uts"}},
		Records:      []sdk.RecordType{{Kind: kindNamespace, Version: 1, Message: &utspb.Namespace{}}},
		Capabilities: []string{"CAP_SYS_ADMIN"},
	}
}
