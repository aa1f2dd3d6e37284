package restore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// Sizes within a process's region: the interpreter, the main thread's slice,
// which takes the largest tape, and a small slice for every other thread, in
// which the largest seccomp filter (32 KiB) has room. If the main thread is to
// exit, the first of the others has a large slice, too.
const (
	codeSize    = 4096
	mainSlice   = tape.MaxData + 1<<20
	threadSlice = 64 << 10
)

// regions is the memory through which the host and all tasks of the tree share
// tapes: one file, sparse, with a part for each process.
type regions struct {
	file *os.File
	mem  []byte
	// at is where a process's part begins in the file.
	at map[sdk.TaskID]int64
	// size is how long it is.
	size map[sdk.TaskID]int64
}

func newRegions(processes []*sdk.Process) (*regions, error) {
	r := &regions{at: map[sdk.TaskID]int64{}, size: map[sdk.TaskID]int64{}}
	total := int64(0)
	for _, p := range processes {
		size := sliceOffset(p, sliceCount(p))
		if uint64(size) > p.Reserved.Len() && !p.Zombie {
			return nil, fmt.Errorf("task %d: %d threads need %d bytes for tapes, the image reserves %d: %w",
				p.ID, len(p.Threads), size, p.Reserved.Len(), sdk.ErrUnsupported)
		}
		r.at[p.ID], r.size[p.ID] = total, size
		total += size
	}
	fd, err := unix.MemfdCreate("firn-tapes", unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before 6.3
		fd, err = unix.MemfdCreate("firn-tapes", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("create tape memory: %w", err)
	}
	r.file = os.NewFile(uintptr(fd), "firn-tapes")
	if err := r.file.Truncate(total); err != nil {
		return nil, errors.Join(fmt.Errorf("create tape memory: %w", err), r.close())
	}
	r.mem, err = unix.Mmap(fd, 0, int(total), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map tape memory: %w", err), r.close())
	}
	for _, at := range r.at {
		copy(r.mem[at:], arch.TapeCode())
	}
	return r, nil
}

// sliceCount is how many slices a process has: one for every thread that it has,
// and for its main thread in any case.
func sliceCount(p *sdk.Process) int {
	if p.MainExited() {
		return len(p.Threads) + 1
	}
	return max(1, len(p.Threads))
}

// sliceOffset is where slice n begins in the process's region.
func sliceOffset(p *sdk.Process, n int) int64 {
	large := 1
	if p.MainExited() {
		large = 2
	}
	return codeSize + int64(min(n, large))*mainSlice + int64(max(0, n-large))*threadSlice
}

// main returns the part of the main thread.
func (r *regions) main(p *sdk.Process) task.Slice { return r.slice(p, 0) }

// thread returns the part of the n-th thread.
func (r *regions) thread(p *sdk.Process, n int) task.Slice {
	if p.MainExited() {
		n++
	}
	return r.slice(p, n)
}

// slice returns the n-th slice.
func (r *regions) slice(p *sdk.Process, n int) task.Slice {
	from := sliceOffset(p, n)
	size := sliceOffset(p, n+1) - from
	at := r.at[p.ID] + from
	return task.Slice{
		Addr: p.Reserved.Start + uint64(from), Code: p.Reserved.Start,
		Mem: r.mem[at : at+size : at+size],
	}
}

func (r *regions) close() error {
	var err error
	if r.mem != nil {
		err = unix.Munmap(r.mem)
		r.mem = nil
	}
	return errors.Join(err, r.file.Close())
}
