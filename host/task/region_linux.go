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
// the whole process.
const (
	codeSize    = pageSize
	mainSlice   = 256 << 10
	threadSlice = 32 << 10
)

// region is memory that a live process shares with the host while it is
// frozen.
type region struct {
	proc *Process
	addr uint64
	mem  []byte
	way  *wayBack
	// caller is the thread that maps and unmaps.
	caller *target
}

// mapRegion has the process map shared memory and maps the same pages here.
// The process keeps no descriptor of it.
func mapRegion(ctx context.Context, p *Process, caller *target) (_ *region, err error) {
	w, err := findWayBack(p, arch.CallBlockSize(len(caller.xstate)))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	size := codeSize + mainSlice + (len(p.Threads)-1)*threadSlice
	addr, err := caller.call(ctx, w, unix.SYS_MMAP, [6]uint64{
		0, uint64(size), unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC,
		unix.MAP_SHARED | unix.MAP_ANONYMOUS, ^uint64(0), 0,
	})
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("map tape region: the process refuses memory that is writable and executable (PR_SET_MDWE): %w", sdk.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("map tape region: %w", err)
	}
	r := &region{proc: p, addr: addr, way: w, caller: caller}
	if r.mem, err = openRegion(caller.tid, addr, size); err != nil {
		return nil, errors.Join(err, r.unmapTask(ctx))
	}
	copy(r.mem, arch.TapeCode())
	return r, nil
}

// openRegion maps the pages of another process's shared mapping
// (/proc/PID/map_files, needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN).
func openRegion(tid HostPID, addr uint64, size int) ([]byte, error) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/map_files/%x-%x", tid, addr, addr+uint64(size)), os.O_RDWR, 0)
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
	mem, err := unix.Mmap(int(f.Fd()), off, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
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
		from, size = codeSize+mainSlice+(n-1)*threadSlice, threadSlice
	}
	return Slice{Addr: r.addr + uint64(from), Mem: r.mem[from : from+size : from+size], Code: r.addr}
}

// unmap removes the region from the process and from here.
func (r *region) unmap(ctx context.Context) error {
	err := unix.Munmap(r.mem)
	r.mem = nil
	return errors.Join(err, r.unmapTask(ctx), r.way.close())
}

func (r *region) unmapTask(ctx context.Context) error {
	size := codeSize + mainSlice + (len(r.proc.Threads)-1)*threadSlice
	if _, err := r.caller.call(ctx, r.way, unix.SYS_MUNMAP, [6]uint64{r.addr, uint64(size)}); err != nil {
		return fmt.Errorf("unmap tape region: %w", err)
	}
	return nil
}

// drop forgets the region of a process that is dead.
func (r *region) drop() error { return errors.Join(unix.Munmap(r.mem), r.way.mem.Close()) }
