package ipc

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/semadj"
	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// used are the semaphores of sets on which semop(2) was called: only these can
// have adjustments (SEM_UNDO).
func used(sets []*ipcpb.SemaphoreSet) []semadj.Semaphore {
	var list []semadj.Semaphore
	for _, s := range sets {
		if !s.Used {
			continue
		}
		for i := range s.Values {
			list = append(list, semaphore(s, i))
		}
	}
	return list
}

// readAdjustments asks the processes that may have some. All threads of a process
// share them, which Check has made sure of.
func readAdjustments(ctx context.Context, host sdk.Host, sets []*ipcpb.SemaphoreSet, members []*sdk.Process) ([]semadj.Adjustment, error) {
	semaphores := used(sets)
	if len(semaphores) == 0 {
		return nil, nil
	}
	var tids []int
	for _, p := range members {
		tid := p.Threads[0].TID
		may, err := kern.MayUndo(tid)
		if err != nil {
			return nil, fmt.Errorf("semaphore adjustments of task %d: %w", p.ID, err)
		}
		if may {
			tids = append(tids, tid)
		}
	}
	return semadj.Read(ctx, host, tids, semaphores)
}

// adjust puts the adjustments of a set into its record.
func (d *dump) adjust(s *ipcpb.SemaphoreSet, all []semadj.Adjustment) {
	for _, a := range all {
		if a.Set != s.Owner.Id {
			continue
		}
		for _, p := range d.members {
			if p.Threads[0].TID == a.TID {
				s.Adjustments = append(s.Adjustments, &ipcpb.SemaphoreAdjustment{
					Process: uint32(p.ID), Number: uint32(a.Number), By: int32(a.By)})
			}
		}
	}
}

// adjustments reports processes whose adjustments cannot be carried.
func (x *examination) adjustments(ctx context.Context, rows []procfs.SysVObject) error {
	if !x.frozen {
		return nil
	}
	sets, err := readSets(rows)
	if err != nil || len(used(sets)) == 0 {
		return err
	}
	list, err := readAdjustments(ctx, x.host, sets, x.members)
	if err != nil {
		return err
	}
	for i, a := range list {
		if a.Err != nil {
			x.block("System V semaphores", fmt.Sprintf("semaphore %d of %d cannot be asked for what is undone when a task ends (SEM_UNDO): %v",
				a.Number, a.Set, a.Err), "")
			return nil
		}
		for _, b := range list[:i] {
			if same, err := kern.SameUndo(a.TID, b.TID); err != nil || same && a.TID != b.TID {
				x.block("System V semaphores", fmt.Sprintf("processes %d and %d undo operations together (CLONE_SYSVSEM)", b.TID, a.TID), "")
				return err
			}
		}
	}
	return x.apart()
}

// apart reports threads that may have adjustments of their own.
func (x *examination) apart() error {
	for _, p := range x.members {
		list, err := semadj.Apart(p.TIDs())
		if err != nil {
			return err
		}
		for _, i := range list {
			x.findings = append(x.findings, sdk.Finding{Level: sdk.LevelBlock, Task: p.Threads[i].ID, Subject: "System V semaphores",
				Text: "the thread undoes its operations (SEM_UNDO) apart from its process (unshare(2))"})
		}
	}
	return nil
}

func validAdjustments(s *ipcpb.SemaphoreSet) error {
	for _, a := range s.Adjustments {
		if int(a.Number) >= len(s.Values) || a.By < -maxSemValue-1 || a.By > maxSemValue || a.By == 0 {
			return fmt.Errorf("adjustment of semaphore %d by %d: %w", a.Number, a.By, sdk.ErrCorrupt)
		}
	}
	return nil
}

// adjustTapes give processes their adjustments, and then make processes the last
// ones that changed a semaphore. Both are operations that leave the value as it
// is; to set it (SETVAL) would clear the adjustments. Of a semaphore that was set
// it sets one, as the value is all that there is then.
func adjustTapes(sets []*ipcpb.SemaphoreSet, members []*sdk.Process) (adjust, last []tape.Run) {
	for _, p := range members {
		first, second := &tape.Tape{}, &tape.Tape{}
		for _, s := range sets {
			adjusted := map[int]bool{}
			for _, a := range s.Adjustments {
				adjusted[int(a.Number)] = true
				if sdk.TaskID(a.Process) == p.ID {
					semadj.Set(first, semadj.Adjustment{Semaphore: semaphore(s, int(a.Number)), By: int(a.By)})
				}
			}
			for i, pid := range s.Last {
				switch {
				case sdk.TaskID(pid) != p.ID:
				case adjusted[i]:
					semadj.Set(second, semadj.Adjustment{Semaphore: semaphore(s, i)})
				default:
					second.Call(unix.SYS_SEMCTL, tape.Imm(s.Owner.Id), tape.Imm(i), tape.Imm(semSetVal), tape.Imm(s.Values[i]))
				}
			}
		}
		if len(first.Calls) > 0 {
			adjust = append(adjust, tape.Run{TID: p.PID, Tape: first})
		}
		if len(second.Calls) > 0 {
			last = append(last, tape.Run{TID: p.PID, Tape: second})
		}
	}
	return adjust, last
}

func semaphore(s *ipcpb.SemaphoreSet, number int) semadj.Semaphore {
	return semadj.Semaphore{Set: s.Owner.Id, Number: number, Value: int(s.Values[number])}
}

// runAdjustments gives the processes of a namespace what they have of semaphores.
func (s *saved) runAdjustments(ctx context.Context, host sdk.Host) error {
	adjust, last := adjustTapes(s.semaphores, s.members)
	if err := namespace.Run(ctx, host, "set semaphore adjustments", adjust); err != nil {
		return err
	}
	return namespace.Run(ctx, host, "set semaphores", last)
}
