package mm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
)

// sharedObject is shared anonymous memory of the frozen tree.
type sharedObject struct {
	id uint32
	// file is open for reading, through map_files.
	file      *os.File
	size      uint64
	noReserve bool
}

// openShared opens the memory behind a mapping: all of it, also what this
// mapping does not show.
func openShared(pid int, v *vma, id uint32) (*sharedObject, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, v.Start, v.End))
	if err != nil {
		return nil, fmt.Errorf("open shared memory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat shared memory: %w", err)
	}
	nr := flagBits(&v.Smap)>>mmpb.Flag_FLAG_NO_RESERVE&1 != 0
	return &sharedObject{id: id, file: f, size: uint64(st.Size), noReserve: nr}, nil
}

func (o *sharedObject) record() *mmpb.SharedMemory {
	return &mmpb.SharedMemory{Id: o.id, Size: o.size, NoReserve: o.noReserve}
}

// data are the parts of the object that have pages, in memory or on swap.
func (o *sharedObject) data() ([]run, error) {
	var runs []run
	for at := int64(0); uint64(at) < o.size; {
		start, err := o.file.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("find pages of shared memory: %w", err)
		}
		end, err := o.file.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find pages of shared memory: %w", err)
		}
		runs = appendRun(runs, run{uint64(start) &^ (pageSize - 1), roundUp(uint64(end))})
		at = end
	}
	return runs, nil
}

// addUser notes that a mapping of an image shows the object.
func (s *sharedImage) addUser(task sdk.TaskID, m *mmpb.Mapping) {
	s.users++
	s.whole = nil
	if s.users == 1 && m.Offset == 0 && m.End-m.Start == roundUp(s.record.Size) {
		s.whole, s.owner = m, task
	}
}

// restoredShared is an object that has been made again, in the plugin.
type restoredShared struct {
	*sharedImage
	mem  []byte
	file *os.File
}

// createShared makes an object that several mappings show. What only one
// mapping shows, as a whole, is made by the task itself.
func createShared(s *sharedImage) (*restoredShared, error) {
	flags := unix.MAP_SHARED | unix.MAP_ANONYMOUS
	if s.record.NoReserve {
		flags |= unix.MAP_NORESERVE
	}
	size := roundUp(s.record.Size)
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		return nil, fmt.Errorf("create shared memory of %d bytes: %w", size, err)
	}
	addr := uint64(uintptr(unsafe.Pointer(&mem[0])))
	// A descriptor of the object itself: unlike one of a memfd, mappings of it
	// look as they did before. map_files wants the exact range of the VMA, and
	// the kernel joins no shared mappings of different objects.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/map_files/%x-%x", addr, addr+size), os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open shared memory: %w", err), unix.Munmap(mem))
	}
	return &restoredShared{sharedImage: s, mem: mem, file: f}, nil
}

// fill reads the content from the image.
func (r *restoredShared) fill(ctx context.Context, records sdk.Records) error {
	return forEach(ctx, len(r.chunks), func(_, i int) error {
		c := &r.chunks[i]
		var off int64
		for _, part := range c.runs {
			if err := records.ReadBulk(c.bulk, r.mem[part.start:part.end], off); err != nil {
				return fmt.Errorf("read shared memory %d: %w", r.record.Id, err)
			}
			off += int64(part.len())
		}
		return nil
	})
}

func (r *restoredShared) close() error {
	return errors.Join(unix.Munmap(r.mem), r.file.Close())
}
