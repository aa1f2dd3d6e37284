package mm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// RestoreMemory implements [sdk.MemoryRestorer]. All processes build their
// address spaces at the same time.
func (p *plugin) RestoreMemory(ctx context.Context, req *sdk.RestoreRequest) (err error) {
	img, err := p.loadImage(req.Records)
	if err != nil {
		return err
	}
	defer p.forget()
	objects, err := restoreShared(ctx, img, req.Records)
	defer func() {
		for _, o := range objects {
			err = errors.Join(err, o.close())
		}
	}()
	if err != nil {
		return err
	}
	held, err := fetchHeld(req, img)
	defer closeHeld(held)
	if err != nil {
		return err
	}
	fds := map[uint32]int{}
	for _, o := range objects {
		fds[o.record.Id] = int(o.file.Fd())
	}
	work := make([]*builder, len(req.Tree.Processes))
	err = forEach(ctx, len(work), func(_, i int) error {
		proc := &req.Tree.Processes[i]
		if proc.Zombie {
			return nil
		}
		work[i] = &builder{img: img, objects: fds, held: held, imageFD: req.ImageFD, pluginFD: req.PluginFD}
		if err := work[i].build(proc); err != nil {
			return fmt.Errorf("memory of task %d: %w", proc.ID, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	work = slices.DeleteFunc(work, func(b *builder) bool { return b == nil })
	return runAll(ctx, req, work)
}

// loadImage returns what CheckImage has read, or reads it.
func (p *plugin) loadImage(records sdk.Records) (*image, error) {
	p.mu.Lock()
	img := p.image
	p.mu.Unlock()
	if img != nil {
		return img, nil
	}
	return readImage(records)
}

// restoreShared makes the shared memory that more than one mapping shows.
func restoreShared(ctx context.Context, img *image, records sdk.Records) ([]*restoredShared, error) {
	var objects []*restoredShared
	for _, s := range img.shared {
		if s.whole != nil || s.users == 0 || s.record.Segment != nil {
			continue
		}
		o, err := createShared(s)
		if err != nil {
			return objects, err
		}
		objects = append(objects, o)
		if err := o.fill(ctx, records); err != nil {
			return objects, err
		}
	}
	return objects, nil
}

// build makes the script of one process, up to where lanes fill its memory.
func (b *builder) build(proc *sdk.Process) error {
	b.sp = b.img.spaces[proc.ID]
	if b.sp == nil {
		return corrupt("no record of the address space")
	}
	seed, err := procfs.Maps(proc.PID)
	if err != nil {
		return err
	}
	if b.freeFD, err = freeDescriptor(proc.PID); err != nil {
		return err
	}
	kept := keepVdso(seed)
	if b.scratchAt, err = b.scratch(proc.Reserved, kept); err != nil {
		return err
	}
	b.pid, b.script = proc.PID, newScript()
	b.loads = b.img.loadsOf(b.sp)
	b.filled = filledBytes(b.sp.mappings, allRuns(b.loads))
	b.chooseLanes(b.filled)

	b.clear(seed, proc.Reserved, kept)
	b.placeVdso(b.sp.record.Vdso, kept, b.scratchAt)
	b.mapAll()
	b.mark(nil, "")
	if b.lanes == nil {
		b.fill()
		b.finish()
		return nil
	}
	b.makeLanes()
	return nil
}

// finish emits what comes after the memory has been filled.
func (b *builder) finish() {
	b.finishAll()
	b.mark(nil, "")
	as := b.sp.record
	b.setFields(as)
	b.setModes(as)
}

// clear emits the calls that unmap the seed, except for the host's range and
// what is kept. [vsyscall] is no mapping of the process.
func (b *builder) clear(seed []procfs.Mapping, reserved sdk.AddrRange, kept []procfs.Mapping) {
	var ranges []run
	for _, m := range seed {
		r := sdk.AddrRange{Start: m.Start, End: m.End}
		if m.Path == nameVsyscall || slices.Contains(kept, m) || r.Overlaps(reserved) {
			continue
		}
		ranges = appendRun(ranges, run{m.Start, m.End})
	}
	for _, r := range ranges {
		b.room(1, 0)
		b.tape.Call(unix.SYS_MUNMAP, tape.Imm(r.start), tape.Imm(r.len()))
	}
}

// lowest is where the search for free addresses starts: above what
// vm.mmap_min_addr forbids.
const lowest = 1 << 20

// scratch finds a range of addresses that nothing will use, neither while the
// space is built nor in the end, and checks that the host's range is one.
func (b *builder) scratch(reserved sdk.AddrRange, kept []procfs.Mapping) (uint64, error) {
	var used []run
	for _, m := range b.sp.mappings {
		used = append(used, run{m.Start, m.End})
	}
	for _, m := range kept {
		used = append(used, run{m.Start, m.End})
	}
	vdso := b.sp.record.Vdso
	if vdso != nil {
		used = append(used, run{vdso.Start, vdso.Start + vdsoSize(vdso)})
	}
	for _, u := range used {
		if reserved.Overlaps(sdk.AddrRange{Start: u.start, End: u.end}) {
			return 0, corrupt("mapping %x-%x lies in the host's range", u.start, u.end)
		}
	}
	used = append(used, run{reserved.Start, reserved.End})
	slices.SortFunc(used, func(a, b run) int { return compare(a.start, b.start) })
	need := max(roundUp(maxAuxv), vdsoSize(vdso))
	for _, m := range b.sp.mappings {
		if m.Kind != mmpb.Kind_KIND_SHARED {
			continue
		}
		if s := b.img.shared[m.Source]; s.record.Segment != nil && !s.shows(m) {
			need = max(need, roundUp(s.record.Size))
		}
	}
	at := uint64(lowest)
	for _, u := range used {
		if u.start >= at+need {
			break
		}
		at = max(at, u.end)
	}
	return at, nil
}

// freeDescriptor finds a number that is free in a process, and not the lowest,
// which the next open gets.
func freeDescriptor(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("list descriptors: %w", err)
	}
	taken := map[int]bool{}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			taken[n] = true
		}
	}
	fd, skip := 0, 1
	for taken[fd] || skip > 0 {
		if !taken[fd] {
			skip--
		}
		fd++
	}
	return fd, nil
}

// runAll builds all spaces. Those without lanes are done after the first round
// of tapes. In the others lanes fill large memory while the task itself reads
// the rest; a third round finishes them.
func runAll(ctx context.Context, req *sdk.RestoreRequest, work []*builder) (err error) {
	if err := runTapes(ctx, req.Host, work); err != nil {
		return err
	}
	work = slices.DeleteFunc(work, func(b *builder) bool { return b.lanes == nil })
	if len(work) == 0 {
		return nil
	}
	if err := fillByLanes(ctx, req, work); err != nil {
		return err
	}
	for _, b := range work {
		b.split()
		b.closeLanes()
		b.finish()
	}
	return runTapes(ctx, req.Host, work)
}

// fillByLanes fills the memory of processes that have lanes. A task must not
// go on before all of its memory is ordinary again: it would wait for pages.
func fillByLanes(ctx context.Context, req *sdk.RestoreRequest, work []*builder) (err error) {
	defer func() {
		for _, b := range work {
			err = errors.Join(err, b.lanes.detach())
		}
	}()
	for _, b := range work {
		if err := b.lanes.attach(b.pid, &b.outcomes[b.lanes.inTape]); err != nil {
			return fmt.Errorf("memory of task %d: %w", b.sp.task, err)
		}
		b.split()
		b.fill()
	}
	own := make(chan error, 1)
	go func() { own <- runTapes(ctx, req.Host, work) }()
	return errors.Join(runLanes(ctx, req.Records, work), <-own)
}

// runTapes runs the tapes of each process that were not run yet.
func runTapes(ctx context.Context, host sdk.Host, work []*builder) error {
	var runs []tape.Run
	for _, b := range work {
		for _, t := range b.tapes[b.ran:] {
			if len(t.Calls) > 0 {
				runs = append(runs, tape.Run{TID: b.pid, Tape: t})
			}
		}
	}
	var outcomes []tape.Outcome
	if len(runs) > 0 {
		var err error
		if outcomes, err = host.RunTapes(ctx, runs); err != nil {
			return fmt.Errorf("build address spaces: %w", err)
		}
	}
	if len(outcomes) != len(runs) {
		return fmt.Errorf("build address spaces: %d outcomes of %d tapes: %w", len(outcomes), len(runs), sdk.ErrCorrupt)
	}
	var errs []error
	for _, b := range work {
		for _, t := range b.tapes[b.ran:] {
			var o tape.Outcome
			if len(t.Calls) > 0 {
				o, outcomes = outcomes[0], outcomes[1:]
			}
			b.outcomes = append(b.outcomes, o)
		}
		b.ran = len(b.tapes)
		if err := b.check(b.outcomes); err != nil {
			errs = append(errs, fmt.Errorf("memory of task %d: %w", b.sp.task, err))
		}
	}
	return errors.Join(errs...)
}

// check looks at what became of the tapes, all of which were run.
func (s *script) check(outcomes []tape.Outcome) error {
	for i := range outcomes {
		err := outcomes[i].Err
		if err == nil {
			continue
		}
		var call *tape.CallError
		if errors.As(err, &call) {
			if name := s.about(i, call.Index); name != "" {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return err
	}
	for _, r := range s.reads {
		got, err := outcomes[r.tape].Value(r.call)
		if err != nil {
			return fmt.Errorf("read pages: %w", err)
		}
		if got != r.want {
			return fmt.Errorf("read pages: %d of %d bytes: %w", got, r.want, sdk.ErrCorrupt)
		}
	}
	return nil
}
