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
// which the largest seccomp filter (32 KiB) has room.
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

func newRegions(tree *sdk.Tree) (*regions, error) {
	r := &regions{at: map[sdk.TaskID]int64{}, size: map[sdk.TaskID]int64{}}
	total := int64(0)
	for i := range tree.Processes {
		p := &tree.Processes[i]
		size := int64(codeSize + mainSlice + max(0, len(p.Threads)-1)*threadSlice)
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

// slice returns the part of the n-th thread of a process.
func (r *regions) slice(p *sdk.Process, n int) task.Slice {
	from, size := int64(codeSize), int64(mainSlice)
	if n > 0 {
		from, size = codeSize+mainSlice+int64(n-1)*threadSlice, threadSlice
	}
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
