package uring

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uring/uringpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// The kernel maps a ring where it likes and nowhere else, neither by mmap(2) nor by
// mremap(2) (io_uring_get_unmapped_area in io_uring/memmap.c). So for the moment
// everything else that is free is taken, by mappings without access, and it likes
// the one place that is left.

// Bounds of where the kernel looks for a place: above page 0, below TASK_SIZE of
// four levels of page tables. What is below vm.mmap_min_addr it finds as well, and
// then gives it to the privileged only.
const (
	lowestAddress  = 1 << 12
	highestAddress = 1<<47 - 1<<12
	privileged     = 64 << 10
)

// LinkFiles implements [sdk.FileLinker]: it maps the rings where they were.
func (p *plugin) LinkFiles(ctx context.Context, req *sdk.RestoreRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	spaces := map[sdk.TaskID]*space{}
	var order []*space
	for i := range req.Resources {
		r := &req.Resources[i]
		ring, err := readRing(req.Records, r.Object)
		if err != nil {
			return err
		}
		for _, m := range ring.msg.GetMappings() {
			id := sdk.TaskID(m.GetTask())
			if spaces[id] == nil {
				if spaces[id], err = newSpace(req.Tree, id); err != nil {
					return err
				}
				order = append(order, spaces[id])
			}
			if err := spaces[id].add(m, source{req.PluginFD, p.made[r.Object], numberOf(r, id)}); err != nil {
				return fmt.Errorf("io_uring of task %d: %w", id, err)
			}
		}
	}
	if len(order) == 0 {
		return nil
	}
	runs := make([]tape.Run, len(order))
	for i, s := range order {
		runs[i] = tape.Run{TID: s.pid, Tape: &s.tape}
	}
	outcomes, err := req.Host.RunTapes(ctx, runs)
	if err != nil {
		return fmt.Errorf("map rings: %w", err)
	}
	for i := range outcomes {
		if err := order[i].check(&outcomes[i]); err != nil {
			return fmt.Errorf("map a ring in task %d: %w", order[i].id, err)
		}
	}
	return nil
}

// numberOf is the descriptor that a process has of a ring; -1 if none.
func numberOf(r *sdk.Resource, id sdk.TaskID) int {
	for _, ref := range r.File.Refs {
		if ref.Task == id {
			return ref.FD
		}
	}
	return -1
}

// source is where a process gets a ring from: own is its own descriptor, made that
// of this process, which pluginFD stands for.
type source struct{ pluginFD, made, own int }

// space is the address space of a process in which rings are mapped.
type space struct {
	id   sdk.TaskID
	pid  int
	used []sdk.AddrRange // in order, without gaps of nothing
	tape tape.Tape
	// placed are the calls that map, with the addresses that they must return.
	placed []placed
}

type placed struct {
	call tape.Result
	at   uint64
}

func newSpace(tree *sdk.Tree, id sdk.TaskID) (*space, error) {
	p := tree.Process(id)
	if p == nil {
		return nil, fmt.Errorf("io_uring of task %d, which is not in the tree: %w", id, sdk.ErrCorrupt)
	}
	maps, err := procfs.Maps(p.PID)
	if err != nil {
		return nil, err
	}
	s := &space{id: id, pid: p.PID}
	for _, m := range maps {
		s.used = append(s.used, sdk.AddrRange{Start: m.Start, End: m.End})
	}
	return s, nil
}

// add emits the calls that map a part of a ring.
func (s *space) add(m *uringpb.Mapping, from source) error {
	want := sdk.AddrRange{Start: m.GetStart(), End: m.GetEnd()}
	if want.Start >= want.End || want.Start < privileged || want.End > highestAddress ||
		slices.ContainsFunc(s.used, want.Overlaps) {
		return fmt.Errorf("mapping %x-%x is taken: %w", want.Start, want.End, sdk.ErrCorrupt)
	}
	s.used = append(s.used, want)
	slices.SortFunc(s.used, func(a, b sdk.AddrRange) int { return cmp.Compare(a.Start, b.Start) })
	t := &s.tape
	free := s.free()
	for _, f := range free {
		take := t.Call
		if f.Start < privileged {
			take = t.Try
		}
		take(unix.SYS_MMAP, tape.Imm(f.Start), tape.Imm(f.Len()), tape.Imm(unix.PROT_NONE),
			tape.Imm(unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE|unix.MAP_FIXED_NOREPLACE), tape.Imm(-1), tape.Imm(0))
	}
	fd := tape.Imm(from.own)
	var got tape.Result
	if from.own < 0 {
		got = t.Call(unix.SYS_PIDFD_GETFD, tape.Imm(from.pluginFD), tape.Imm(from.made), tape.Imm(0))
		fd = got.Arg()
	}
	length := tape.Imm(want.Len())
	at := t.Call(unix.SYS_MMAP, tape.Imm(0), length, tape.Imm(m.GetProt()), tape.Imm(unix.MAP_SHARED|unix.MAP_POPULATE), fd, tape.Imm(m.GetOffset()))
	s.placed = append(s.placed, placed{at, want.Start})
	if m.GetDontFork() {
		t.Call(unix.SYS_MADVISE, at.Arg(), length, tape.Imm(unix.MADV_DONTFORK))
	}
	if from.own < 0 {
		t.Call(unix.SYS_CLOSE, got.Arg())
	}
	for _, f := range free {
		t.Call(unix.SYS_MUNMAP, tape.Imm(f.Start), tape.Imm(f.Len()))
	}
	return nil
}

// free are the ranges that nothing uses.
func (s *space) free() (out []sdk.AddrRange) {
	at := uint64(lowestAddress)
	add := func(until uint64) {
		for _, limit := range []uint64{privileged, highestAddress} {
			if end := min(limit, until); at < end {
				out = append(out, sdk.AddrRange{Start: at, End: end})
				at = end
			}
		}
	}
	for _, u := range s.used {
		add(u.Start) // [vsyscall] is beyond all
		at = max(at, u.End)
	}
	add(highestAddress)
	return out
}

// check makes sure that everything is where it was.
func (s *space) check(o *tape.Outcome) error {
	if o.Err != nil {
		return o.Err
	}
	for _, p := range s.placed {
		at, err := o.Value(p.call)
		if err != nil {
			return err
		}
		if at != p.at {
			return fmt.Errorf("the kernel maps it at %x, not at %x: %w", at, p.at, sdk.ErrKernel)
		}
	}
	return nil
}
