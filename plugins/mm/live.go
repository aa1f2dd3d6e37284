package mm

import (
	"context"
	"fmt"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// part are pages of a process of which all, or none, are copied by fork(2).
type part struct {
	runs   []run
	copied bool
}

// partition parts pages into those that a copy of the process has and the others.
func (sp *space) partition(runs []run) [2]part {
	parts := [2]part{{copied: false}, {copied: true}}
	for _, r := range runs {
		n := 0
		if sp.every(r, copiedByFork) {
			n = 1
		}
		parts[n].runs = append(parts[n].runs, r)
	}
	return parts
}

// copiedByFork tells whether a copy of the process has the pages of a mapping as
// they are (dup_mmap in kernel/fork.c).
func copiedByFork(v *vma) bool {
	return !v.Shared() && !v.Flags.Has(procfs.VMDontCopy) && !v.Flags.Has(procfs.VMWipeOnFork)
}

// worthCopying is from how many bytes on a process is copied: less is read in the
// time that the copying takes.
const worthCopying = 1 << 20

// postpone has the host copy the processes, and leaves to Thawed what the copies
// have. It returns the jobs that must be done while the tree stands still. A
// process that cannot be copied is read now; the program does not notice more than
// that it stands still for longer.
func (p *plugin) postpone(ctx context.Context, req *sdk.DumpRequest, jobs []job) (now []job, err error) {
	size := map[*space]uint64{}
	for i := range jobs {
		if jobs[i].copied {
			size[jobs[i].space] += runBytes(jobs[i].runs)
		}
	}
	copies := map[*space]*space{}
	var spaces []*space
	var pids []int
	for i := range jobs {
		if sp := jobs[i].space; jobs[i].copied && size[sp] >= worthCopying && copies[sp] == nil {
			copies[sp] = sp
			spaces, pids = append(spaces, sp), append(pids, sp.pid)
		}
	}
	if len(pids) == 0 {
		return jobs, nil
	}
	made, err := req.Host.Snapshot(ctx, pids)
	if err != nil {
		return nil, fmt.Errorf("copy the processes: %w", err)
	}
	for i, m := range made {
		if m.Err != nil {
			req.Log.Warn("a process is not copied, but read while it stands still", "task", spaces[i].task, "error", m.Err)
			continue
		}
		c := *spaces[i]
		c.pid, c.snapshot = m.PID, true
		copies[spaces[i]] = &c
	}
	var later []job
	for _, j := range jobs {
		if c := copies[j.space]; j.copied && c != nil && c.snapshot {
			j.space = c
			later = append(later, j)
		} else {
			now = append(now, j)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.later = later
	return now, nil
}

// Thawed implements [sdk.Thawer]: it reads the copies while the tree runs.
func (p *plugin) Thawed(ctx context.Context, req *sdk.DumpRequest) error {
	p.mu.Lock()
	later := p.later
	p.later = nil
	p.mu.Unlock()
	return p.captureAll(ctx, req, later)
}
