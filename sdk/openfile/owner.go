package openfile

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/tape"
)

// ReadOwner reads who gets the signals of a description. fd is a duplicate of
// it. The result is nil if nobody does; its ID is a TaskID. An owner outside the
// tree is reported as a blocker.
func (a *Access) ReadOwner(r *sdk.Resource, fd int, report *Report) (*kern.FileOwner, error) {
	o, err := kern.GetFileOwner(fd)
	if err != nil {
		return nil, fmt.Errorf("read owner: %w", err)
	}
	if o.IsZero() {
		return nil, nil
	}
	if o.ID == 0 {
		return &o, nil
	}
	id := taskID(a.tree, o)
	if id == 0 {
		report.Block(r, fmt.Sprintf("%s: its signals go to %s, which is outside the tree", r.File.Link, ownerName(o)), "")
	}
	o.ID = int(id)
	return &o, nil
}

// taskID translates the ID of an owner as the kernel tells it here into that of
// the tree. It returns 0 if there is none.
func taskID(tree *sdk.Tree, o kern.FileOwner) sdk.TaskID {
	if o.Type == kern.OwnerPID {
		if p := tree.ByPID(o.ID); p != nil {
			return p.ID
		}
		return 0
	}
	for i := range tree.Processes {
		p := &tree.Processes[i]
		if o.Type == kern.OwnerPGRP && groupID(p) == o.ID {
			return p.PGID
		}
		if o.Type == kern.OwnerTID {
			if j := slices.IndexFunc(p.Threads, func(t sdk.Thread) bool { return t.TID == o.ID }); j >= 0 {
				return p.Threads[j].ID
			}
		}
	}
	return 0
}

func ownerName(o kern.FileOwner) string {
	if o.Type == kern.OwnerPGRP {
		return fmt.Sprintf("process group %d", o.ID)
	}
	return fmt.Sprintf("task %d", o.ID)
}

// liveID translates the ID of an owner, by which it was known at the
// checkpoint, into what it is now. It returns 0 if there is none.
func liveID(tree *sdk.Tree, o kern.FileOwner) int {
	for i := range tree.Processes {
		p := &tree.Processes[i]
		switch {
		case o.Type == kern.OwnerPID && int(p.ID) == o.ID:
			return p.PID
		case o.Type == kern.OwnerPGRP && int(p.PGID) == o.ID:
			return groupID(p)
		case o.Type == kern.OwnerTID:
			if j := slices.IndexFunc(p.Threads, func(t sdk.Thread) bool { return int(t.ID) == o.ID }); j >= 0 {
				return p.Threads[j].TID
			}
		}
	}
	return 0
}

// groupID is the process group of a process as it is called here. Its leader may
// have ended, and with a PID namespace of the tree's own only the kernel knows
// its number then. The zombie of another user tells it as well.
func groupID(p *sdk.Process) int {
	id, err := unix.Getpgid(p.PID)
	if err != nil {
		return 0
	}
	return id
}

// State is what has to be set on a description when all tasks exist: its owner
// and O_ASYNC.
type State struct {
	Object uint64
	// FD is the description in this process.
	FD int
	// Flags are all status flags, as at the checkpoint.
	Flags uint32
	// Owner is nil if there is none; its ID is a TaskID.
	Owner *kern.FileOwner
}

// settable are the status flags that fcntl(F_SETFL) changes.
const settable = unix.O_APPEND | unix.O_NONBLOCK | unix.O_DIRECT | unix.O_NOATIME | unix.O_ASYNC

// SetFlags gives a new description the status flags that it shall have, all
// but O_ASYNC, which [SetStates] sets when there is an owner.
func SetFlags(fd int, flags uint32) error {
	if flags&unix.O_PATH != 0 {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, int(flags&settable&^unix.O_ASYNC)); err != nil {
		return fmt.Errorf("set flags %#o: %w", flags, err)
	}
	return nil
}

// SetStates sets owners, and O_ASYNC where it was set. Call it from LinkFiles:
// threads exist then, and a task can set O_ASYNC itself, which puts its own
// number of the file into the siginfo of the signals.
func SetStates(ctx context.Context, req *sdk.RestoreRequest, states []State) error {
	for _, s := range states {
		if s.Owner == nil {
			continue
		}
		o := *s.Owner
		if o.ID != 0 {
			if o.ID = liveID(req.Tree, o); o.ID == 0 {
				return fmt.Errorf("set owner of object %d: %s is not in the tree: %w", s.Object, ownerName(*s.Owner), sdk.ErrCorrupt)
			}
		}
		if err := kern.SetFileOwner(s.FD, o); err != nil {
			return fmt.Errorf("set owner of object %d: %w", s.Object, err)
		}
	}
	return setAsync(ctx, req, states)
}

// setFlagsHeld sets O_ASYNC of a description that no task has open.
func setFlagsHeld(s State) error {
	if _, err := unix.FcntlInt(uintptr(s.FD), unix.F_SETFL, int(s.Flags&settable)); err != nil {
		return fmt.Errorf("set O_ASYNC of object %d: %w", s.Object, err)
	}
	return nil
}

func setAsync(ctx context.Context, req *sdk.RestoreRequest, states []State) error {
	byObject := map[uint64]*sdk.Resource{}
	for i := range req.Resources {
		byObject[req.Resources[i].Object] = &req.Resources[i]
	}
	a := NewAccess(req.Tree)
	var runs []tape.Run
	for _, s := range states {
		r := byObject[s.Object]
		if s.Flags&unix.O_ASYNC == 0 || r == nil {
			continue
		}
		if len(r.File.Refs) == 0 {
			if err := setFlagsHeld(s); err != nil {
				return err
			}
			continue
		}
		ref, p, err := a.Holder(r)
		if err != nil {
			return err
		}
		t := &tape.Tape{}
		t.Call(unix.SYS_FCNTL, tape.Imm(ref.FD), tape.Imm(unix.F_SETFL), tape.Imm(s.Flags&settable))
		runs = append(runs, tape.Run{TID: p.PID, Tape: t})
	}
	if len(runs) == 0 {
		return nil
	}
	outcomes, err := req.Host.RunTapes(ctx, runs)
	if err != nil {
		return fmt.Errorf("set O_ASYNC: %w", err)
	}
	for i := range outcomes {
		if err := outcomes[i].Err; err != nil {
			return fmt.Errorf("set O_ASYNC in task %d: %w", runs[i].TID, err)
		}
	}
	return nil
}
