package mm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// bulkSize is the largest payload of a bulk record: large enough that calls
// cost nothing, small enough for the cache between copying and checksumming.
const bulkSize = 1 << 20

// bulkObject makes the object of bulk record number n.
func bulkObject(n uint64) uint64 { return 1<<63 | n }

// job is one bulk record to be filled: pages of a process, or of an object of
// shared memory.
type job struct {
	space  *space
	shared *sharedObject
	runs   []run
	// copied tells that a copy of the process has the pages, too.
	copied bool
}

// capture copies pages into records. Each goroutine has its own worker.
type capture struct {
	emit sdk.Emitter
	host sdk.Host
	// next is the number of the next bulk record.
	next *atomic.Uint64
	// done and total are in bytes, for the progress.
	done  atomic.Int64
	total int64
}

// worker reads memory. It keeps the files of the process that it read last.
type worker struct {
	*capture
	space   *space
	pagemap *procfs.Pagemap
	mem     *os.File
	entries []procfs.Page
	pin     bool
	scratch []byte
	remote  []unix.RemoteIovec
}

// close closes what is open.
func (w *worker) close() error {
	var err error
	if w.pagemap != nil {
		err = w.pagemap.Close()
	}
	if w.mem != nil {
		err = errors.Join(err, w.mem.Close())
	}
	w.pagemap, w.mem, w.space = nil, nil, nil
	return err
}

// enter makes a process the one that is read.
func (w *worker) enter(sp *space) error {
	if w.space == sp {
		return nil
	}
	err := w.close()
	if err == nil {
		w.pagemap, err = procfs.OpenPagemap(sp.pid)
	}
	w.space = sp
	return err
}

// run fills one bulk record and hands it over with the list of its pages.
func (w *worker) run(ctx context.Context, j *job) error {
	buf, err := w.emit.Bulk(ctx, int(runBytes(j.runs)))
	if err != nil {
		return err
	}
	defer buf.Put()
	mem := buf.Payload()
	if j.shared != nil {
		err = j.shared.read(j.runs, mem)
	} else {
		err = w.readPages(j.space, j.runs, mem)
	}
	if err != nil {
		return err
	}
	kept, size := dropZeros(j, mem)
	w.progress(int64(runBytes(j.runs)))
	if size == 0 {
		return nil
	}
	buf.Trim(size)
	list := &mmpb.Pages{Runs: encodeRuns(kept)}
	if j.shared != nil {
		list.Shared = j.shared.id
	} else {
		list.Task = uint32(j.space.task)
	}
	object := bulkObject(w.next.Add(1))
	if err := w.emit.Emit(ctx, kindPages, object, list); err != nil {
		return err
	}
	return buf.Commit(ctx, kindPageData, recordVersion, object)
}

// progressStep is how often the host is told, in bytes.
const progressStep = 128 << 20

func (w *worker) progress(n int64) {
	now := w.done.Add(n)
	if now/progressStep != (now-n)/progressStep {
		w.host.Progress(now, w.total)
	}
}

// readPages copies the pages of runs, one after the other, into mem.
//
// process_vm_readv(2) pins the pages it reads, and a page that several
// processes share since a fork is copied for that: reading a forking server
// would double its memory. /proc/PID/mem does not pin, but is slower. So the
// call gets only pages that nobody else maps.
func (w *worker) readPages(sp *space, runs []run, mem []byte) error {
	if err := w.enter(sp); err != nil {
		return fmt.Errorf("memory of task %d: %w", sp.task, err)
	}
	w.remote = w.remote[:0]
	pending := 0 // bytes of mem that w.remote will fill
	flush := func(next int) error {
		err := w.readv(mem[next-pending : next])
		w.remote, pending = w.remote[:0], 0
		return err
	}
	at := 0
	for _, r := range runs {
		if err := w.lookUp(sp, r); err != nil {
			return fmt.Errorf("memory of task %d: %w", sp.task, err)
		}
		for r.start < r.end {
			part, exclusive := w.sameSharing(r)
			n := int(part.len())
			var err error
			if exclusive {
				w.remote = append(w.remote, unix.RemoteIovec{Base: uintptr(part.start), Len: n})
				if pending += n; len(w.remote) == iovMax {
					err = flush(at + n)
				}
			} else if err = flush(at); err == nil {
				err = w.readMem(part.start, mem[at:at+n])
			}
			if err != nil {
				return fmt.Errorf("memory %x-%x of task %d: %w", part.start, part.end, sp.task, err)
			}
			at += n
			r.start = part.end
		}
	}
	if err := flush(at); err != nil {
		return fmt.Errorf("memory of task %d: %w", sp.task, err)
	}
	return nil
}

// lookUp finds out how a run can be read: w.entries gets its pagemap, or
// nothing if all of it can be read in the same way, which w.pin tells then. The
// process has to have the right to read what process_vm_readv(2) reads.
func (w *worker) lookUp(sp *space, r run) error {
	w.entries = w.entries[:0]
	if sp.snapshot {
		w.pin = false // what is not shared now may be in a moment
		return nil
	}
	readable := sp.readableAt(r)
	w.pin = readable && sp.aloneAt(r)
	if w.pin || !readable {
		return nil
	}
	n := int(r.len() / pageSize)
	if cap(w.entries) < n {
		w.entries = make([]procfs.Page, max(n, bulkSize/int(pageSize)))
	}
	w.entries = w.entries[:n]
	var err error
	w.scratch, err = w.pagemap.Read(r.start, w.entries, w.scratch)
	return err
}

// sameSharing returns the part at the start of r whose pages are all exclusive
// or all not, and takes their entries off w.entries. Of a page on swap the
// entry does not tell.
func (w *worker) sameSharing(r run) (part run, exclusive bool) {
	if len(w.entries) == 0 {
		return r, w.pin
	}
	alone := func(p procfs.Page) bool { return p.Exclusive() && p.Present() }
	exclusive = alone(w.entries[0])
	n := 1
	for n < len(w.entries) && alone(w.entries[n]) == exclusive {
		n++
	}
	w.entries = w.entries[n:]
	return run{r.start, r.start + uint64(n)*pageSize}, exclusive
}

// readv fills b from the ranges in w.remote. Ranges that the process itself
// may not read are left to readMem.
func (w *worker) readv(b []byte) error {
	remote := w.remote
	for len(b) > 0 {
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(len(b))
		n, err := unix.ProcessVMReadv(w.space.pid, local, remote, 0)
		if err != nil && !errors.Is(err, unix.EFAULT) {
			return fmt.Errorf("process_vm_readv: %w", err)
		}
		n = max(n, 0)
		b, remote = b[n:], skip(remote, n)
		if len(b) == 0 {
			break
		}
		// The next page cannot be read this way.
		first := min(int(pageSize), remote[0].Len)
		if err := w.readMem(uint64(remote[0].Base), b[:first]); err != nil {
			return err
		}
		b, remote = b[first:], skip(remote, first)
	}
	return nil
}

// skip takes n bytes off the front of ranges.
func skip(ranges []unix.RemoteIovec, n int) []unix.RemoteIovec {
	for n > 0 && len(ranges) > 0 {
		if n < ranges[0].Len {
			ranges[0].Base += uintptr(n)
			ranges[0].Len -= n
			return ranges
		}
		n -= ranges[0].Len
		ranges = ranges[1:]
	}
	return ranges
}

// readMem fills b through /proc/PID/mem.
func (w *worker) readMem(addr uint64, b []byte) error {
	if w.mem == nil {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mem", w.space.pid))
		if err != nil {
			return err
		}
		w.mem = f
	}
	n, err := w.mem.ReadAt(b, int64(addr))
	if n == len(b) {
		return nil
	}
	if err == nil {
		err = errShortRead
	}
	return fmt.Errorf("read memory at %x: %w", addr+uint64(n), err)
}

// read copies parts of a shared object into mem, one after the other.
func (o *sharedObject) read(runs []run, mem []byte) error {
	for _, r := range runs {
		n, err := o.file.ReadAt(mem[:r.len()], int64(r.start))
		if n < int(r.len()) && r.start+uint64(n) < o.size {
			return fmt.Errorf("read shared memory %d at %x: %w", o.id, r.start, errors.Join(err, errShortRead))
		}
		clear(mem[n:r.len()]) // behind the end of the object
		mem = mem[r.len():]
	}
	return nil
}

// zeroPage is what a page is compared with.
var zeroPage = make([]byte, 64<<10)

// dropZeros moves the pages that have to be kept to the front of mem. It
// returns their ranges and their length. A page of zeros is what a fresh page
// of anonymous memory is; of a file's mapping it has to be kept.
func dropZeros(j *job, mem []byte) ([]run, int) {
	var kept []run
	from, to := 0, 0
	size := int(pageSize)
	for _, r := range j.runs {
		keepAll := j.space != nil && !j.space.anonymousAt(r)
		for at := r.start; at < r.end; at += pageSize {
			page := mem[from : from+size]
			from += size
			if !keepAll && page[0] == 0 && bytes.Equal(page, zeroPage[:size]) {
				continue
			}
			if from-size != to {
				copy(mem[to:], page)
			}
			to += size
			kept = appendRun(kept, run{at, at + pageSize})
		}
	}
	return kept, to
}
