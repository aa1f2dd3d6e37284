package network

import (
	"sync"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
)

// Kinds of records. Never reuse a number.
const (
	kindNamespace uint32 = 1
	kindLink      uint32 = 2
	kindEntry     uint32 = 3
	kindNftables  uint32 = 4
	kindSysctls   uint32 = 5
)

// plugin carries network namespaces.
type plugin struct {
	mu sync.Mutex
	// fresh are the settings of a new namespace, once they were read.
	fresh settings
	// frozen is what the check of the frozen tree found; the dump needs it.
	frozen *survey
	// outside are ends of veth pairs that go up at the end of a restore.
	outside []*outsider
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "net",
		Version: "0.1.0",
		Summary: "network namespaces with their devices, addresses, routes, nftables and settings",
		Claims:  []sdk.Claim{{Kind: sdk.KindNamespace, Namespace: "net"}},
		Records: []sdk.RecordType{
			{Kind: kindNamespace, Version: 1, Message: &networkpb.Namespace{}},
			{Kind: kindLink, Version: 1, Message: &networkpb.Link{}},
			{Kind: kindEntry, Version: 1, Message: &networkpb.Entry{}},
			{Kind: kindNftables, Version: 1, Message: &networkpb.Nftables{}},
			{Kind: kindSysctls, Version: 1, Message: &networkpb.Sysctls{}},
		},
		Capabilities: []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"},
	}
}
