package mm

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
)

// Kinds of records.
const (
	kindSpace    uint32 = 1
	kindMappings uint32 = 2
	kindFile     uint32 = 3
	kindShared   uint32 = 4
	kindGuards   uint32 = 5
	kindPages    uint32 = 6
	kindPageData uint32 = 7
)

// recordVersion is the version of every kind.
const recordVersion = 1

// plugin keeps what one phase of a session finds out for the next.
type plugin struct {
	files *fileTable // knows files and their build ids

	mu      sync.Mutex
	running []*space // what Check has read of the running tree, for Prepare
	frozen  []*space // what Check has read of the frozen tree, for Dump
	later   []job    // what Dump has left to Thawed
	image   *image   // what CheckImage has read, for RestoreMemory

	// bulk is the number of the last bulk record.
	bulk atomic.Uint64
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{files: newFileTable()} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "mm",
		Version: "0.1.0",
		Summary: "address spaces: mappings, memory, arguments, environment, vdso",
		Claims:  []sdk.Claim{{Kind: sdk.KindVMA}},
		Records: []sdk.RecordType{
			{Kind: kindSpace, Version: recordVersion, Message: &mmpb.AddressSpace{}},
			{Kind: kindMappings, Version: recordVersion, Message: &mmpb.MappingList{}},
			{Kind: kindFile, Version: recordVersion, Message: &mmpb.MappedFile{}},
			{Kind: kindShared, Version: recordVersion, Message: &mmpb.SharedMemory{}},
			{Kind: kindGuards, Version: recordVersion, Message: &mmpb.Guards{}},
			{Kind: kindPages, Version: recordVersion, Message: &mmpb.Pages{}},
			{Kind: kindPageData, Version: recordVersion, Name: "page data"},
		},
		Capabilities: []string{"CAP_SYS_PTRACE", "CAP_CHECKPOINT_RESTORE"},
	}
}

// Abort implements [sdk.Aborter].
func (p *plugin) Abort(context.Context) error {
	p.forget()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.later = nil
	return nil
}

// forget drops what a session has left.
func (p *plugin) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.frozen, p.image = nil, nil, nil
}
