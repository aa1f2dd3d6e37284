package resource

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// Tables that clone(2) can share between processes although they are not
// threads of each other.
var tables = []struct {
	typ  kern.KcmpType
	name string
}{
	{kern.KcmpVM, "its address space (CLONE_VM)"},
	{kern.KcmpFiles, "its file descriptor table (CLONE_FILES)"},
	{kern.KcmpFS, "its root, cwd and umask (CLONE_FS)"},
}

// Sighand cannot be shared without CLONE_VM, the System V undo list is
// reported by whoever carries tasks.

// sharedTables reports processes that share a table, and threads of one
// process that do not.
func sharedTables(procs []*process) ([]sdk.Finding, error) {
	var out []sdk.Finding
	for _, t := range tables {
		fs, err := sharedTable(procs, t.typ, t.name)
		if err != nil {
			return nil, err
		}
		out = append(out, fs...)
	}
	for _, p := range procs {
		fs, err := unsharedThreads(p)
		if err != nil {
			return nil, err
		}
		out = append(out, fs...)
	}
	return out, nil
}

func sharedTable(procs []*process, typ kern.KcmpType, name string) ([]sdk.Finding, error) {
	if len(procs) < 2 {
		return nil, nil
	}
	sorted := slices.Clone(procs)
	var failed error
	cmp := func(a, b *process) int {
		c, err := kern.Kcmp(a.PID, b.PID, typ, 0, 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			failed = fmt.Errorf("compare task %d with %d: kcmp: %w", a.PID, b.PID, err)
		}
		if err != nil {
			return int(a.ID) - int(b.ID)
		}
		return c
	}
	slices.SortStableFunc(sorted, cmp)
	var out []sdk.Finding
	for i := 1; i < len(sorted); i++ {
		if cmp(sorted[i-1], sorted[i]) == 0 {
			out = append(out, sdk.Finding{
				Level: sdk.LevelBlock, Task: sorted[i].ID, Subject: "process",
				Text: fmt.Sprintf("shares %s with process %d", name, sorted[i-1].ID),
			})
		}
	}
	return out, failed
}

// unsharedThreads finds threads that called unshare(2).
func unsharedThreads(p *process) ([]sdk.Finding, error) {
	var out []sdk.Finding
	for _, t := range p.Threads[min(1, len(p.Threads)):] {
		for _, tab := range tables[1:] {
			c, err := kern.Kcmp(p.Threads[0].TID, t.TID, tab.typ, 0, 0)
			if errors.Is(err, unix.ESRCH) {
				continue // ended meanwhile, or an exited leader
			}
			if err != nil {
				return nil, fmt.Errorf("compare thread %d with %d: kcmp: %w", t.TID, p.PID, err)
			}
			if c != 0 {
				out = append(out, sdk.Finding{
					Level: sdk.LevelBlock, Task: t.ID, Subject: "thread",
					Text: "does not share " + tab.name + " with its process",
				})
			}
		}
	}
	return out, nil
}
