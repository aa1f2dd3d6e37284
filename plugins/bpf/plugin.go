package bpf

import (
	"github.com/firn-cr/firn/plugins/bpf/bpfpb"
	"github.com/firn-cr/firn/sdk"
)

// Kinds of records. Never reuse a number.
const (
	kindMap     uint32 = 1
	kindEntries uint32 = 2
	kindHandle  uint32 = 3
)

// plugin has no state.
type plugin struct{}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "bpf",
		Version: "0.1.0",
		Summary: "BPF maps: hash tables, arrays, tables of prefixes",
		Claims:  []sdk.Claim{{Kind: sdk.KindFile, Anon: "bpf-map"}},
		Records: []sdk.RecordType{
			{Kind: kindMap, Version: 1, Message: &bpfpb.Map{}},
			{Kind: kindEntries, Version: 1, Message: &bpfpb.Entries{}},
			{Kind: kindHandle, Version: 1, Message: &bpfpb.Handle{}},
		},
		Capabilities: []string{"CAP_SYS_PTRACE", "CAP_SYS_ADMIN"},
	}
}
