package ipc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// pageSize is the size of a page on this machine.
var pageSize = uint64(os.Getpagesize())

const (
	// bulkSize is the largest payload of a bulk record.
	bulkSize = 1 << 20
	// prefixSegment is what the kernel calls the files of segments.
	prefixSegment = "/SYSV"
	// hugetlbMagic is HUGETLBFS_MAGIC (statfs(2)).
	hugetlbMagic = 0x958458f6
)

// attachment is a mapping of a segment.
type attachment struct {
	pid        int
	start, end uint64
}

// attachments finds the mappings of segments in processes, by the segments'
// ids, which the kernel shows as inodes.
func attachments(members []*sdk.Process) (map[int32][]attachment, error) {
	found := map[int32][]attachment{}
	for _, p := range members {
		maps, err := procfs.Maps(p.PID)
		if err != nil {
			return nil, err
		}
		for i := range maps {
			if m := &maps[i]; m.Deleted() && strings.HasPrefix(m.Path, prefixSegment) && unix.Major(m.Dev) == 0 {
				id := int32(m.Ino)
				found[id] = append(found[id], attachment{p.PID, m.Start, m.End})
			}
		}
	}
	return found, nil
}

// openSegment opens the file behind a segment: through a mapping of the tree
// if there is one, which changes nothing; else by attaching it for a moment.
func openSegment(id int32, attached []attachment) (*os.File, error) {
	if len(attached) > 0 {
		a := attached[0]
		return openMapping(fmt.Sprint(a.pid), a.start, a.end)
	}
	mem, err := unix.SysvShmAttach(int(id), 0, shmReadOnly)
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	start := uint64(uintptr(unsafe.Pointer(&mem[0])))
	f, err := openMapping("self", start, start+roundUp(uint64(len(mem))))
	return f, errors.Join(err, unix.SysvShmDetach(mem))
}

func openMapping(pid string, start, end uint64) (*os.File, error) {
	return os.Open(fmt.Sprintf("/proc/%s/map_files/%x-%x", pid, start, end))
}

func roundUp(n uint64) uint64 { return (n + pageSize - 1) &^ (pageSize - 1) }

// dumpSegments emits the segments of the calling thread's namespace.
func (d *dump) dumpSegments(ctx context.Context) error {
	rows, err := procfs.SysVIPC(procfs.SharedMemory)
	if err != nil {
		return err
	}
	attached, err := attachments(d.members)
	if err != nil {
		return err
	}
	for _, r := range rows {
		id := r.ID
		s := &ipcpb.Segment{Owner: owner(&r), Size: r.Numbers["size"],
			Locked: r.Mode&shmLocked != 0, Destroyed: r.Mode&shmDestroyed != 0}
		f, err := openSegment(id, attached[id])
		if err != nil {
			return fmt.Errorf("shared memory %d: %w", id, err)
		}
		s.Parts, err = d.dumpContent(ctx, f, s.Size)
		f.Close()
		if err != nil {
			return fmt.Errorf("shared memory %d: %w", id, err)
		}
		if err := d.emit.Emit(ctx, kindSegment, d.object, s); err != nil {
			return err
		}
	}
	return nil
}

// span is a range of a segment in bytes.
type span struct{ off, n uint64 }

// content finds the pages of a segment that are there.
func content(f *os.File, size uint64) ([]span, error) {
	var spans []span
	for at := int64(0); uint64(at) < size; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("find pages: %w", err)
		}
		if at, err = f.Seek(start, unix.SEEK_HOLE); err != nil {
			return nil, fmt.Errorf("find pages: %w", err)
		}
		end := min(uint64(at), size)
		for off := uint64(start); off < end; off += bulkSize {
			spans = append(spans, span{off, min(bulkSize, end-off)})
		}
	}
	return spans, nil
}

// dumpContent emits the pages of a segment. It returns the objects of the bulk
// records.
func (d *dump) dumpContent(ctx context.Context, f *os.File, size uint64) ([]uint64, error) {
	spans, err := content(f, size)
	if err != nil {
		return nil, err
	}
	var parts []uint64
	for len(spans) > 0 {
		n, bytes := 0, uint64(0)
		for n < len(spans) && bytes+spans[n].n <= bulkSize {
			bytes += spans[n].n
			n++
		}
		d.bulks++
		object := d.object<<20 | d.bulks | 1<<63
		if err := d.emitPart(ctx, f, object, spans[:n], int(bytes)); err != nil {
			return nil, err
		}
		parts, spans = append(parts, object), spans[n:]
	}
	return parts, nil
}

func (d *dump) emitPart(ctx context.Context, f *os.File, object uint64, spans []span, size int) error {
	buf, err := d.emit.Bulk(ctx, size)
	if err != nil {
		return err
	}
	defer buf.Put()
	buf.Trim(size)
	mem, pages := buf.Payload()[:size], &ipcpb.Pages{}
	for _, s := range spans {
		if n, err := f.ReadAt(mem[:s.n], int64(s.off)); err != nil && (err != io.EOF || n < int(s.n)) {
			return fmt.Errorf("read at %d: %w", s.off, err)
		}
		mem = mem[s.n:]
		pages.Ranges = append(pages.Ranges, s.off, s.n)
	}
	if err := d.emit.Emit(ctx, kindPages, object, pages); err != nil {
		return err
	}
	return buf.Commit(ctx, kindPageData, recordVersion, object)
}

// restoreSegment makes a segment and fills it.
func restoreSegment(records sdk.Records, s *ipcpb.Segment) error {
	err := create(procfs.SharedMemory, s.Owner, func(key, flags uintptr) (int, error) {
		id, err := call(unix.SYS_SHMGET, key, uintptr(s.Size), flags)
		if errors.Is(err, unix.ENOMEM) { // more than there is, of which little is used
			id, err = call(unix.SYS_SHMGET, key, uintptr(s.Size), flags|shmNoReserve)
		}
		return id, err
	})
	if err != nil {
		return err
	}
	if err := fillSegment(records, s); err != nil {
		return err
	}
	if s.Locked {
		if err := control(procfs.SharedMemory, s.Owner.Id, shmLock, nil); err != nil {
			return fmt.Errorf("lock: %w", err)
		}
	}
	return setOwner(procfs.SharedMemory, s.Owner, nil)
}

func fillSegment(records sdk.Records, s *ipcpb.Segment) (err error) {
	if len(s.Parts) == 0 {
		return nil
	}
	mem, err := unix.SysvShmAttach(int(s.Owner.Id), 0, 0)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer func() { err = errors.Join(err, unix.SysvShmDetach(mem)) }()
	for _, object := range s.Parts {
		pages, bulk, err := part(records, object)
		if err != nil {
			return err
		}
		var at uint64
		for i := 0; i+1 < len(pages.Ranges); i += 2 {
			off, n := pages.Ranges[i], pages.Ranges[i+1]
			if off > s.Size || n > s.Size-off {
				return fmt.Errorf("pages %d of %d bytes: %w", off, n, sdk.ErrCorrupt)
			}
			if err := records.ReadBulk(bulk, mem[off:off+n], int64(at)); err != nil {
				return err
			}
			at += n
		}
	}
	return nil
}

// part reads what a bulk record is.
func part(records sdk.Records, object uint64) (*ipcpb.Pages, sdk.Record, error) {
	var pages *ipcpb.Pages
	var bulk sdk.Record
	for r, err := range records.Object(object) {
		if err != nil {
			return nil, bulk, err
		}
		switch {
		case r.Kind == kindPages:
			pages = &ipcpb.Pages{}
			if err := r.Decode(pages); err != nil {
				return nil, bulk, err
			}
		case r.Kind == kindPageData && r.Bulk:
			bulk = r
		}
	}
	if pages == nil || !bulk.Bulk {
		return nil, bulk, fmt.Errorf("no pages of object %x: %w", object, sdk.ErrCorrupt)
	}
	return pages, bulk, nil
}
