package uring

import (
	"sync"

	"github.com/firn-cr/firn/plugins/uring/uringpb"
	"github.com/firn-cr/firn/sdk"
)

// Kinds of records. Never reuse a number.
const (
	kindRing   uint32 = 1
	kindMemory uint32 = 2
)

// anonName is the name of the anonymous inode.
const anonName = "[io_uring]"

// plugin remembers what one phase finds out for the next.
type plugin struct {
	mu sync.Mutex
	// frozen are the rings that the check of the frozen tree has found, by object.
	frozen map[uint64]*uringpb.Ring
	// dumped are duplicates of those that were saved, for Thawed.
	dumped []int
	// made are the rings of this process, by object.
	made map[uint64]int
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "uring",
		Version: "0.1.0",
		Summary: "io_uring: rings with nothing in flight and nothing registered",
		Claims:  []sdk.Claim{{Kind: sdk.KindFile, Anon: anonName}, {Kind: sdk.KindVMA, Anon: anonName}},
		Records: []sdk.RecordType{
			{Kind: kindRing, Version: 1, Message: &uringpb.Ring{}},
			{Kind: kindMemory, Version: 1, Name: "ring memory"},
		},
		Capabilities: []string{"CAP_SYS_PTRACE", "CAP_IPC_LOCK"},
	}
}
