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
	"github.com/firn-cr/firn/sdk/tape"
)

// sharedObject is shared memory of the frozen tree.
type sharedObject struct {
	id uint32
	// file is open for reading, through map_files.
	file      *os.File
	size      uint64
	noReserve bool
	// segment is the id of a System V segment. What it contains is saved with it.
	segment *uint32
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
	o := &sharedObject{id: id, file: f, size: uint64(st.Size), noReserve: nr}
	if v.object.segment() {
		n := uint32(v.Ino)
		o.segment = &n
	}
	return o, nil
}

func (o *sharedObject) record() *mmpb.SharedMemory {
	return &mmpb.SharedMemory{Id: o.id, Size: o.size, NoReserve: o.noReserve, Segment: o.segment}
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
	if s.record.Segment == nil && s.users == 1 && s.shows(m) {
		s.whole, s.owner = m, task
	}
}

// shmReadOnly is SHM_RDONLY of shmat(2).
const shmReadOnly = 0o10000

// attach emits the calls that attach a System V segment where a mapping shows
// it. One that shows a part was cut out of a whole: that is attached where
// nothing else is, and what is not wanted detached again.
func (b *builder) attach(m *mmpb.Mapping, s *sharedImage, prot uint32) {
	id, flags, made := tape.Imm(*s.record.Segment), 0, uint32(unix.PROT_READ|unix.PROT_WRITE)
	if !has(m, mmpb.Flag_FLAG_MAY_WRITE) {
		flags, made = shmReadOnly, unix.PROT_READ
	}
	addr, length := tape.Imm(m.Start), tape.Imm(m.End-m.Start)
	if s.shows(m) {
		b.tape.Call(unix.SYS_SHMAT, id, addr, tape.Imm(flags))
	} else {
		b.tape.Call(unix.SYS_SHMAT, id, tape.Imm(b.scratchAt), tape.Imm(flags))
		b.tape.Call(unix.SYS_MREMAP, tape.Imm(b.scratchAt+m.Offset), length, length,
			tape.Imm(unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED), addr)
		b.tape.Call(unix.SYS_SHMDT, tape.Imm(b.scratchAt))
	}
	if prot != made {
		b.tape.Call(unix.SYS_MPROTECT, addr, length, tape.Imm(prot))
	}
}

// shows tells whether a mapping shows the whole object.
func (s *sharedImage) shows(m *mmpb.Mapping) bool {
	return m.Offset == 0 && m.End-m.Start == roundUp(s.record.Size)
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
