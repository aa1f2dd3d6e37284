package mm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// space is the address space of one process as it is now.
type space struct {
	task   sdk.TaskID
	pid    int // a thread that shows it, see [sdk.Process]
	stat   procfs.TaskStat
	status procfs.TaskStatus
	// vmas are the mappings that the plugin owns, in order.
	vmas []vma
	exe  *file
	// exeErr says why exe is nil.
	exeErr error
	// snapshot tells that pid is a copy of the process.
	snapshot bool
	info     inquiry
}

// depth is how thoroughly processes are read.
type depth uint8

const (
	// preview leaves out what the kernel finds out by walking the page tables:
	// flags and counts of the mappings.
	preview depth = iota
	// running is all of a tree that runs: a process may end, and its mappings
	// may differ from the resources.
	running
	// frozen is all of a tree that stands still, where both are errors.
	frozen
)

// readSpaces reads every process of the session.
func (p *plugin) readSpaces(ctx context.Context, s *sdk.Session, how depth) ([]*space, error) {
	owned := ownedRanges(s.Resources)
	spaces := make([]*space, len(s.Tree.Processes))
	err := forEach(ctx, len(spaces), func(_, i int) error {
		proc := &s.Tree.Processes[i]
		if proc.Zombie || len(owned[proc.ID]) == 0 {
			return nil
		}
		sp, err := p.readSpace(proc, owned[proc.ID], how)
		if err != nil && how != frozen && gone(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("memory of task %d: %w", proc.ID, err)
		}
		spaces[i] = sp
		return nil
	})
	return slices.DeleteFunc(spaces, func(sp *space) bool { return sp == nil }), err
}

// gone tells whether an error means that the process has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, sdk.ErrTaskGone)
}

// ownedRanges are the mappings that the host has given to the plugin, by
// process and in order.
func ownedRanges(resources []sdk.Resource) map[sdk.TaskID][]sdk.AddrRange {
	owned := map[sdk.TaskID][]sdk.AddrRange{}
	for i := range resources {
		if r := &resources[i]; r.VMA != nil {
			owned[r.Task] = append(owned[r.Task], r.VMA.AddrRange)
		}
	}
	for _, ranges := range owned {
		slices.SortFunc(ranges, func(a, b sdk.AddrRange) int { return compare(a.Start, b.Start) })
	}
	return owned
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (p *plugin) readSpace(proc *sdk.Process, owned []sdk.AddrRange, how depth) (*space, error) {
	sp := &space{task: proc.ID, pid: proc.PID}
	smaps, err := readMappings(sp.pid, how)
	if err != nil {
		return nil, err
	}
	if len(smaps) == 0 { // a zombie's
		return nil, sdk.ErrTaskGone
	}
	if sp.stat, err = procfs.Stat(sp.pid); err != nil {
		return nil, err
	}
	if sp.status, err = procfs.Status(sp.pid); err != nil {
		return nil, err
	}
	if smaps, err = selectOwned(smaps, owned, how == frozen); err != nil {
		return nil, err
	}
	sp.vmas = make([]vma, len(smaps))
	for i := range smaps {
		sp.vmas[i] = p.classify(sp.pid, smaps[i])
	}
	sp.exe, sp.exeErr = p.files.executable(sp.pid)
	if gone(sp.exeErr) {
		return nil, sp.exeErr
	}
	return sp, nil
}

// readMappings reads the mappings of a process; in a preview they have neither
// flags nor counts.
func readMappings(pid int, how depth) ([]procfs.Smap, error) {
	if how != preview {
		return procfs.Smaps(pid)
	}
	maps, err := procfs.Maps(pid)
	if err != nil {
		return nil, err
	}
	smaps := make([]procfs.Smap, len(maps))
	for i, m := range maps {
		smaps[i].Mapping = m
	}
	return smaps, nil
}

// selectOwned keeps the mappings that the host has given to the plugin. What
// else there is belongs to other plugins, or to the host itself, which may
// have a mapping in a frozen task. With exact each owned range must be there.
func selectOwned(smaps []procfs.Smap, owned []sdk.AddrRange, exact bool) ([]procfs.Smap, error) {
	var out []procfs.Smap
	for i := range smaps {
		m := &smaps[i]
		for len(owned) > 0 && owned[0].End <= m.Start {
			if exact {
				return nil, fmt.Errorf("mapping %x-%x is not there any more: %w", owned[0].Start, owned[0].End, sdk.ErrChanged)
			}
			owned = owned[1:]
		}
		if len(owned) == 0 || owned[0].Start >= m.End {
			continue
		}
		if exact {
			if owned[0] != (sdk.AddrRange{Start: m.Start, End: m.End}) {
				return nil, fmt.Errorf("mapping %x-%x has become %x-%x: %w", owned[0].Start, owned[0].End, m.Start, m.End, sdk.ErrChanged)
			}
			owned = owned[1:]
		}
		out = append(out, *m)
	}
	if exact && len(owned) > 0 {
		return nil, fmt.Errorf("mapping %x-%x is not there any more: %w", owned[0].Start, owned[0].End, sdk.ErrChanged)
	}
	return out, nil
}

// layoutKey holds what processes that share their memory have in common.
type layoutKey struct {
	code, stack, args uint64
	mappings          int
	last              uint64
}

// sharedSpaces returns, for each process that shares its memory with another
// one (CLONE_VM without CLONE_THREAD, vfork), the other's TaskID.
func sharedSpaces(spaces []*space) (map[sdk.TaskID]sdk.TaskID, error) {
	groups := map[layoutKey][]*space{}
	for _, sp := range spaces {
		k := layoutKey{code: sp.stat.StartCode, stack: sp.stat.StartStack, args: sp.stat.ArgStart, mappings: len(sp.vmas)}
		if n := len(sp.vmas); n > 0 {
			k.last = sp.vmas[n-1].Start
		}
		groups[k] = append(groups[k], sp)
	}
	shared := map[sdk.TaskID]sdk.TaskID{}
	for _, g := range groups {
		if err := findShared(g, shared); err != nil {
			return nil, err
		}
	}
	return shared, nil
}

// findShared sorts a group by the kernel's order of address spaces, so that
// equal ones are neighbors.
func findShared(group []*space, shared map[sdk.TaskID]sdk.TaskID) error {
	var failed error
	cmp := func(a, b *space) int {
		c, err := kern.Kcmp(a.pid, b.pid, kern.KcmpVM, 0, 0)
		if err != nil && failed == nil && !gone(err) {
			failed = fmt.Errorf("compare memory of tasks %d and %d: kcmp: %w", a.task, b.task, err)
		}
		return c
	}
	if len(group) > 1 {
		slices.SortStableFunc(group, cmp)
	}
	for i := 1; i < len(group) && failed == nil; i++ {
		a, b := group[i-1], group[i]
		if cmp(a, b) != 0 || failed != nil {
			continue
		}
		shared[b.task] = a.task
		if _, ok := shared[a.task]; !ok {
			shared[a.task] = b.task
		}
	}
	return failed
}

// every tells whether all mappings that a run touches have a property.
func (sp *space) every(r run, has func(*vma) bool) bool {
	i := sort.Search(len(sp.vmas), func(i int) bool { return sp.vmas[i].End > r.start })
	for ; i < len(sp.vmas) && sp.vmas[i].Start < r.end; i++ {
		if !has(&sp.vmas[i]) {
			return false
		}
	}
	return true
}

// anonymousAt tells whether a run lies in anonymous memory.
func (sp *space) anonymousAt(r run) bool { return sp.every(r, (*vma).anonymous) }

// readableAt tells whether the process itself may read a run.
func (sp *space) readableAt(r run) bool {
	return sp.every(r, func(v *vma) bool { return v.Readable() })
}

// aloneAt tells whether nobody else maps any page of a run.
func (sp *space) aloneAt(r run) bool {
	return sp.every(r, func(v *vma) bool { return v.SharedRss == 0 && v.Swap == 0 })
}
