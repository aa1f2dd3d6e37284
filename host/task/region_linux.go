package task

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Sizes of the parts of a region. The main thread's slice carries what concerns
// the whole process; those of others have room for the frame that leads back, and
// threadRoom bytes of tape. From manyThreads on all pages are made at once: that
// takes a fraction of the faults, of which there would be several per thread.
const (
	codeSize   = pageSize
	mainSlice  = 256 << 10
	threadRoom = 12 << 10

	manyThreads = 16
)

// region is memory that a live process shares with the host while it is
// frozen.
type region struct {
	proc *Process
	addr uint64
	mem  []byte
	way  *wayBack
	// threadSlice is the size of a slice that is not the main thread's.
	threadSlice int
	// caller is the thread that maps and unmaps.
	caller *target
}

// newRegion finds out how a process can be made to map memory. It needs no
// tracer.
func newRegion(p *Process, caller *target) (*region, error) {
	w, err := findWayBack(p, arch.CallBlockSize(len(caller.xstate)))
	if err != nil {
		return nil, err
	}
	r := &region{proc: p, way: w, caller: caller}
	for _, th := range p.Threads {
		r.threadSlice = max(r.threadSlice, (arch.EntriesOffset(len(th.XState))+threadRoom+pageSize-1)&^(pageSize-1))
	}
	return r, nil
}

// size is that of the region in bytes.
func (r *region) size() int { return codeSize + mainSlice + (len(r.proc.Threads)-1)*r.threadSlice }

// populate is the flag of mmap(2) that makes all pages at once, or 0.
func (r *region) populate() int {
	if len(r.proc.Threads) < manyThreads {
		return 0
	}
	return unix.MAP_POPULATE
}

// mapRegions has the processes map shared memory. They keep no descriptor of
// it. It runs on the tracing thread; a region that could not be mapped has no
// address.
func mapRegions(ctx context.Context, regions []*region) error {
	calls := make([]*liveCall, len(regions))
	for i, r := range regions {
		calls[i] = &liveCall{t: r.caller, way: r.way, nr: unix.SYS_MMAP, args: [6]uint64{
			0, uint64(r.size()), unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC,
			unix.MAP_SHARED | unix.MAP_ANONYMOUS | uint64(r.populate()), ^uint64(0), 0,
		}}
	}
	callAll(ctx, calls)
	var errs []error
	for i, c := range calls {
		regions[i].addr = c.result
		if errors.Is(c.err, unix.EACCES) {
			c.err = fmt.Errorf("the process refuses memory that is writable and executable (PR_SET_MDWE): %w", sdk.ErrUnsupported)
		}
		if c.err != nil {
			errs = append(errs, fmt.Errorf("prepare task %d for tapes: map tape region: %w", regions[i].proc.PID, c.err))
		}
	}
	return errors.Join(errs...)
}

// open maps the pages of a region here and puts the interpreter into it. It
// needs no tracer.
func (r *region) open() (err error) {
	if r.mem, err = openRegion(r.caller.tid, r.addr, r.size(), r.populate()); err != nil {
		return err
	}
	copy(r.mem, arch.TapeCode())
	return nil
}

// openRegion maps the pages of another process's shared mapping
// (/proc/PID/map_files, needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN).
func openRegion(tid HostPID, addr uint64, size, flags int) ([]byte, error) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/map_files/%x-%x", tid, addr, addr+uint64(size)), os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN needed: %w: %w", sdk.ErrNotPermitted, err)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	off := int64(0)
	if err != nil {
		// The kernel merged the mapping with another: find what it is
		// part of now.
		if f, off, err = openMerged(tid, addr, size); err != nil {
			return nil, err
		}
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), off, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|flags)
	if err != nil {
		return nil, fmt.Errorf("map tape region here: %w", err)
	}
	return mem, nil
}

func openMerged(tid HostPID, addr uint64, size int) (*os.File, int64, error) {
	maps, err := procfs.Maps(int(tid))
	if err != nil {
		return nil, 0, err
	}
	for _, m := range maps {
		if m.Start <= addr && addr+uint64(size) <= m.End {
			f, err := os.OpenFile(fmt.Sprintf("/proc/%d/map_files/%x-%x", tid, m.Start, m.End), os.O_RDWR, 0)
			return f, int64(addr - m.Start + m.Offset), err
		}
	}
	return nil, 0, fmt.Errorf("tape region at %x is not mapped", addr)
}

// slice returns the part of the n-th thread.
func (r *region) slice(n int) Slice {
	from, size := codeSize, mainSlice
	if n > 0 {
		from, size = codeSize+mainSlice+(n-1)*r.threadSlice, r.threadSlice
	}
	return Slice{Addr: r.addr + uint64(from), Mem: r.mem[from : from+size : from+size], Code: r.addr}
}

// unmapRegions removes regions from their processes and from here. It runs on
// the tracing thread. Processes that are gone have none any more.
func unmapRegions(ctx context.Context, regions []*region) error {
	var errs []error
	var calls []*liveCall
	for _, r := range regions {
		errs = append(errs, r.unmapHere())
		if r.addr != 0 {
			calls = append(calls, &liveCall{t: r.caller, way: r.way, nr: unix.SYS_MUNMAP, args: [6]uint64{r.addr, uint64(r.size())}})
		}
	}
	callAll(ctx, calls)
	for _, c := range calls {
		if c.err != nil && !errors.Is(c.err, sdk.ErrTaskGone) {
			errs = append(errs, fmt.Errorf("task %d: unmap tape region: %w", c.way.pid, c.err))
		}
	}
	for _, r := range regions {
		if err := r.way.close(); err != nil {
			errs = append(errs, fmt.Errorf("task %d: %w", r.proc.PID, err))
		}
	}
	return errors.Join(errs...)
}

func (r *region) unmapHere() error {
	if r.mem == nil {
		return nil
	}
	err := unix.Munmap(r.mem)
	r.mem = nil
	return err
}

// drop forgets the region of a process that is dead.
func (r *region) drop() error { return errors.Join(r.unmapHere(), r.way.mem.Close()) }
