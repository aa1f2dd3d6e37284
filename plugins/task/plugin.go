package task

import (
	"context"
	"sync"

	"github.com/firn-cr/firn/plugins/task/internal/cgroups"
	"github.com/firn-cr/firn/plugins/task/internal/clocks"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Kinds of records.
const (
	kindProcess       uint32 = 1
	kindThread        uint32 = 2
	kindClocks        uint32 = 3
	kindSeccompFilter uint32 = 4
	kindCgroup        uint32 = 5
)

// recordVersion is the version of all kinds.
const recordVersion = 1

// plugin has no state but what the check of a frozen tree has read that the
// dump would have to read again, for nothing of it changes until the thaw, and
// what is about cgroups.
type plugin struct {
	mu     sync.Mutex
	status map[int]*procfs.TaskStatus // by thread
	// cgroups is what Prepare has read, for the dump.
	cgroups map[cgroups.Key]*taskpb.CgroupDirectory
	// made are the groups that a restore has created.
	made cgroups.Made
}

// New returns the plugin.
func New() sdk.Plugin { return &plugin{} }

// Describe implements [sdk.Plugin].
func (*plugin) Describe() sdk.Description {
	return sdk.Description{
		Name:    "task",
		Version: "0.1.0",
		Summary: "signals, timers, clocks, credentials, limits, seccomp, scheduling and names of tasks",
		Claims:  append(clocks.Claims(), sdk.Claim{Kind: sdk.KindTask}),
		Attends: attendedTerminals(),
		Records: []sdk.RecordType{
			{Kind: kindProcess, Version: recordVersion, Message: &taskpb.Process{}},
			{Kind: kindThread, Version: recordVersion, Message: &taskpb.Thread{}},
			{Kind: kindClocks, Version: recordVersion, Message: &taskpb.Clocks{}},
			{Kind: kindSeccompFilter, Version: recordVersion, Message: &taskpb.SeccompFilter{}},
			{Kind: kindCgroup, Version: recordVersion, Message: &taskpb.CgroupDirectory{}},
		},
		Capabilities: []string{"CAP_SYS_PTRACE", "CAP_CHECKPOINT_RESTORE", "CAP_SYS_ADMIN"},
	}
}

// remember keeps what a check has read, or forgets it with nil.
func (p *plugin) remember(status map[int]*procfs.TaskStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status = status
}

// recall gives what was kept, once.
func (p *plugin) recall() map[int]*procfs.TaskStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	status := p.status
	p.status = nil
	return status
}

// Abort implements [sdk.Aborter]. The tasks have been ended by now.
func (p *plugin) Abort(context.Context) error {
	p.remember(nil)
	return p.made.Remove()
}
