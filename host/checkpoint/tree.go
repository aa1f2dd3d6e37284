package checkpoint

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/host/pidns/survey"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/host/userns"
	"github.com/firn-cr/firn/sdk"
)

// treeOf converts processes to what plugins see, with the numbers that the tree
// uses for them. The root has no parent in the tree.
func treeOf(procs []*task.Process, pids *survey.View, users *userns.View) *sdk.Tree {
	tree := &sdk.Tree{Root: pids.ID(procs[0].PID)}
	for _, p := range procs {
		q := sdk.Process{
			ID: pids.ID(p.PID), PID: int(p.Live()), Parent: pids.Parent(p),
			PGID: pids.Group(p), SID: pids.Session(p), Comm: p.Comm, Zombie: p.State == task.Zombie,
			UserNamespace: users.Of(p.PID),
		}
		for _, th := range p.Threads {
			if id := pids.ID(th.TID); id != 0 { // else it has ended by now
				q.Threads = append(q.Threads, sdk.Thread{ID: id, TID: int(th.TID)})
			}
		}
		tree.Processes = append(tree.Processes, q)
	}
	tree.Processes[0].Parent = 0
	return tree
}

// hostFindings are what the host itself cannot carry.
func hostFindings(procs []*task.Process, pids *survey.View) []failure.Line {
	var out []failure.Line
	block := func(id task.HostPID, subject, text string) {
		out = append(out, failure.Line{Finding: sdk.Finding{
			Level: sdk.LevelBlock, Task: pids.ID(id), Subject: subject, Text: text,
		}})
	}
	for _, f := range pids.Findings {
		out = append(out, failure.Line{Finding: f})
	}
	for _, p := range procs {
		if p.State != task.Zombie && len(p.Threads) == 0 {
			block(p.PID, "process", "is about to end")
		}
		if p.TTY != 0 && pids.Map != nil {
			block(p.PID, "session", "has a controlling terminal, which is not carried in a tree with PID namespaces of its own")
		}
		if p.State == task.Zombie && p.PID == procs[0].PID {
			block(p.PID, "process", "has ended already")
		}
		for _, th := range p.Threads {
			if th.Dispatches {
				block(th.TID, "thread", "handles its system calls itself (PR_SET_SYSCALL_USER_DISPATCH)")
			}
			if th.Regs.InRestart() {
				block(th.TID, "thread", "is in a system call that was interrupted twice and cannot be told apart")
			}
		}
	}
	return out
}

// seccompFindings refuses tasks under seccomp where it cannot be suspended:
// their filters would be asked about injected calls.
func seccompFindings(procs []*task.Process, pids *survey.View) []failure.Line {
	cannot := task.MaySuspendSeccomp()
	if cannot == nil {
		return nil
	}
	var out []failure.Line
	for _, p := range procs {
		for _, th := range p.Threads {
			mode, err := task.SeccompMode(th.TID)
			if err != nil || mode == unix.SECCOMP_MODE_DISABLED {
				continue // what is gone cannot block
			}
			out = append(out, failure.Line{Finding: sdk.Finding{
				Level: sdk.LevelBlock, Task: pids.ID(p.PID), Subject: "seccomp", Text: fmt.Sprintf("cannot be suspended: %v", cannot),
				Help: "run firn with CAP_SYS_ADMIN and not under seccomp itself",
			}})
			break // once per process
		}
	}
	return out
}

// hostRecords writes what belongs to no plugin.
func (f *flow) hostRecords() error {
	tree, pids := image.TreeToProto(f.plan.tree), f.plan.pids
	pids.Map.Fill(tree)
	records := &image.HostRecords{Tree: tree}
	for i, p := range f.frozen.Processes {
		h := tree.Processes[i]
		h.Tty, h.ExitSignal = uint64(p.TTY), uint32(max(p.ExitSignal, 0))
		if pids.Map == nil {
			h.TtyPgid = uint32(max(p.TTYGroup, 0))
		}
		switch p.State {
		case task.Stopped:
			h.State, h.StopSignal = imagepb.State_STATE_STOPPED, uint32(p.StopSignal)
		case task.Zombie:
			h.State = imagepb.State_STATE_ZOMBIE
		}
		h.ExitStatus = uint32(p.ExitStatus)
		for _, th := range p.Threads {
			records.Threads = append(records.Threads, &imagepb.HostThread{
				Id: uint32(pids.ID(th.TID)), Process: uint32(pids.ID(p.PID)), Arch: arch.Name,
				Registers: th.Regs.Bytes(), ExtendedState: th.XState, SigMask: th.SigMask,
				DebugRegisters: th.DebugRegs,
			})
		}
	}
	for name, resources := range f.plan.assigned.ByPlugin {
		for _, r := range resources {
			if r.Kind == sdk.KindFile || r.Kind == sdk.KindNamespace {
				records.Objects = append(records.Objects, image.Object{Plugin: name, Resource: r})
			}
		}
	}
	return f.writer.WriteHostRecords(records)
}
