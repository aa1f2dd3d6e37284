package mm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
)

// image is what the records of an image say, checked so far that the rest of
// the plugin can rely on it: ranges are page aligned, in order and in bounds,
// and every reference leads to something.
type image struct {
	files  map[uint32]*mmpb.MappedFile
	shared map[uint32]*sharedImage
	spaces map[sdk.TaskID]*spaceImage
	// order has the spaces as they were emitted.
	order []*spaceImage
}

// spaceImage is the address space of one process.
type spaceImage struct {
	task     sdk.TaskID
	record   *mmpb.AddressSpace
	mappings []*mmpb.Mapping
	guards   []run
	chunks   []chunk
}

// sharedImage is one object of shared anonymous memory.
type sharedImage struct {
	record *mmpb.SharedMemory
	chunks []chunk
	// users counts the mappings of it.
	users int
	// whole is the only mapping, if it shows the whole object.
	whole *mmpb.Mapping
	owner sdk.TaskID
}

// chunk is a bulk record with the ranges that its pages belong to.
type chunk struct {
	runs []run
	bulk sdk.Record
}

// Limits on what an image may ask for.
const (
	maxPath    = 4096
	maxName    = 256
	maxAuxv    = 4096
	maxParts   = 16
	maxProtBit = 0x1f
)

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, sdk.ErrCorrupt)...)
}

// reader collects the records of an image.
type reader struct {
	*image
	bulks map[uint64]sdk.Record
	pages map[uint64]*mmpb.Pages
	// bulkOrder has the bulk records as they were emitted.
	bulkOrder []uint64
}

// readImage reads and checks all records.
func readImage(records sdk.Records) (*image, error) {
	r := &reader{
		image: &image{files: map[uint32]*mmpb.MappedFile{}, shared: map[uint32]*sharedImage{}, spaces: map[sdk.TaskID]*spaceImage{}},
		bulks: map[uint64]sdk.Record{}, pages: map[uint64]*mmpb.Pages{},
	}
	for rec, err := range records.All() {
		if err != nil {
			return nil, err
		}
		if err := r.add(rec); err != nil {
			return nil, &sdk.CorruptError{What: "record", Kind: rec.Kind, Object: rec.Object, Err: err}
		}
	}
	if err := r.joinPages(); err != nil {
		return nil, err
	}
	for _, sp := range r.order {
		if err := r.checkSpace(sp); err != nil {
			return nil, fmt.Errorf("memory of task %d: %w", sp.task, err)
		}
	}
	for id, sh := range r.shared {
		if err := checkChunks(sh.chunks, []run{{0, roundUp(sh.record.Size)}}); err != nil {
			return nil, fmt.Errorf("shared memory %d: %w", id, err)
		}
	}
	return r.image, nil
}

// add takes one record over.
func (r *reader) add(rec sdk.Record) error {
	switch rec.Kind {
	case kindFile:
		return r.addFile(rec)
	case kindShared:
		return r.addShared(rec)
	case kindPages:
		m := &mmpb.Pages{}
		if r.pages[rec.Object] != nil {
			return corrupt("second list of pages")
		}
		r.pages[rec.Object] = m
		return rec.Decode(m)
	case kindPageData:
		if !rec.Bulk {
			return corrupt("page data within the records")
		}
		if _, ok := r.bulks[rec.Object]; ok {
			return corrupt("second bulk record")
		}
		r.bulks[rec.Object] = rec
		r.bulkOrder = append(r.bulkOrder, rec.Object)
		return nil
	case kindSpace, kindMappings, kindGuards:
		return r.addToSpace(rec)
	}
	return nil // the host has refused or skipped what it does not know
}

func (r *reader) addFile(rec sdk.Record) error {
	m := &mmpb.MappedFile{}
	if err := rec.Decode(m); err != nil {
		return err
	}
	switch {
	case m.Id == 0 || r.files[m.Id] != nil:
		return corrupt("number %d of a file", m.Id)
	case !strings.HasPrefix(m.Path, "/") || len(m.Path) >= maxPath || strings.ContainsRune(m.Path, 0):
		return corrupt("path %q", m.Path)
	}
	r.files[m.Id] = m
	return nil
}

func (r *reader) addShared(rec sdk.Record) error {
	m := &mmpb.SharedMemory{}
	if err := rec.Decode(m); err != nil {
		return err
	}
	if m.Id == 0 || r.shared[m.Id] != nil || m.Size == 0 || m.Size > maxOffset {
		return corrupt("shared memory %d of %d bytes", m.Id, m.Size)
	}
	r.shared[m.Id] = &sharedImage{record: m}
	return nil
}

// addToSpace takes over a record whose object is a process.
func (r *reader) addToSpace(rec sdk.Record) error {
	task := sdk.TaskID(rec.Object)
	if uint64(task) != rec.Object {
		return corrupt("object is no task")
	}
	sp := r.spaces[task]
	if sp == nil {
		sp = &spaceImage{task: task}
		r.spaces[task] = sp
		r.order = append(r.order, sp)
	}
	switch rec.Kind {
	case kindMappings:
		m := &mmpb.MappingList{}
		if err := rec.Decode(m); err != nil {
			return err
		}
		sp.mappings = append(sp.mappings, m.Mappings...)
	case kindGuards:
		m := &mmpb.Guards{}
		if err := rec.Decode(m); err != nil {
			return err
		}
		runs, err := decodeRuns(m.Runs)
		if err != nil {
			return err
		}
		sp.guards = append(sp.guards, runs...)
	case kindSpace:
		if sp.record != nil {
			return corrupt("second record of the address space")
		}
		sp.record = &mmpb.AddressSpace{}
		return rec.Decode(sp.record)
	}
	return nil
}

// joinPages gives every bulk record to the space or object it belongs to.
func (r *reader) joinPages() error {
	if len(r.pages) != len(r.bulks) {
		return corrupt("%d lists of pages for %d bulk records", len(r.pages), len(r.bulks))
	}
	for _, object := range r.bulkOrder {
		m := r.pages[object]
		if m == nil {
			return corrupt("bulk record %x without list of pages", object)
		}
		runs, err := decodeRuns(m.Runs)
		if err != nil {
			return err
		}
		c := chunk{runs: runs, bulk: r.bulks[object]}
		if c.bulk.BulkLen <= 0 || runBytes(runs) != uint64(c.bulk.BulkLen) {
			return corrupt("bulk record %x has %d bytes for %d", object, c.bulk.BulkLen, runBytes(runs))
		}
		if sh := r.shared[m.Shared]; m.Shared != 0 && sh != nil {
			sh.chunks = append(sh.chunks, c)
			continue
		}
		sp := r.spaces[sdk.TaskID(m.Task)]
		if sp == nil || m.Shared != 0 {
			return corrupt("pages of task %d, shared memory %d", m.Task, m.Shared)
		}
		sp.chunks = append(sp.chunks, c)
	}
	return nil
}

// checkSpace checks what belongs to one process.
func (r *reader) checkSpace(sp *spaceImage) error {
	as := sp.record
	switch {
	case as == nil:
		return corrupt("no record of the address space")
	case uint64(as.PageSize) != pageSize:
		return fmt.Errorf("pages of %d bytes: %w", as.PageSize, sdk.ErrUnsupported)
	case as.Fields == nil || len(as.Auxv) > maxAuxv:
		return corrupt("record of the address space")
	case r.files[as.Exe] == nil:
		return corrupt("executable %d", as.Exe)
	}
	if err := checkVdso(as.Vdso); err != nil {
		return err
	}
	var last uint64
	for _, m := range sp.mappings {
		if m.Start < last {
			return corrupt("mapping %x-%x is not in order", m.Start, m.End)
		}
		last = m.End
		if err := r.checkMapping(sp.task, m); err != nil {
			return err
		}
	}
	ranges := mappedRanges(sp.mappings)
	if err := checkRuns(sp.guards, ranges); err != nil {
		return fmt.Errorf("guard pages: %w", err)
	}
	return checkChunks(sp.chunks, ranges)
}

func checkVdso(v *mmpb.Vdso) error {
	if v == nil {
		return nil
	}
	end := v.Start
	for _, p := range v.Parts {
		end += p.Size
		if p.Size == 0 || p.Size%pageSize != 0 || p.Size > maxVdso {
			return corrupt("vdso part %q of %d bytes", p.Name, p.Size)
		}
	}
	if len(v.Parts) == 0 || len(v.Parts) > maxParts || v.Start%pageSize != 0 || v.Start > maxOffset || end > maxOffset {
		return corrupt("vdso at %x", v.Start)
	}
	return nil
}

func (r *reader) checkMapping(task sdk.TaskID, m *mmpb.Mapping) error {
	switch {
	case m.Start >= m.End || m.End > maxOffset || m.Start%pageSize != 0 || m.End%pageSize != 0,
		m.Offset%pageSize != 0 || m.Offset > maxOffset,
		m.Prot > maxProtBit || m.Flags&^uint64(flagSetOfAllKnown) != 0,
		len(m.Name) > maxName || strings.ContainsRune(m.Name, 0):
		return corrupt("mapping %x-%x", m.Start, m.End)
	}
	shared := has(m, mmpb.Flag_FLAG_SHARED)
	ok := false
	switch m.Kind {
	case mmpb.Kind_KIND_ANONYMOUS, mmpb.Kind_KIND_ZERO:
		ok = !shared
	case mmpb.Kind_KIND_FILE:
		ok = r.files[m.Source] != nil
	case mmpb.Kind_KIND_SHARED:
		sh := r.shared[m.Source]
		if ok = shared && sh != nil && m.Offset+(m.End-m.Start) <= roundUp(sh.record.Size); ok {
			sh.addUser(task, m)
		}
	}
	if !ok {
		return corrupt("mapping %x-%x of kind %d, source %d", m.Start, m.End, m.Kind, m.Source)
	}
	return nil
}

// mappedRanges are the mappings whose pages an image may hold, joined where
// they touch: a run of pages may go over several mappings.
func mappedRanges(mappings []*mmpb.Mapping) []run {
	var ranges []run
	for _, m := range mappings {
		if !has(m, mmpb.Flag_FLAG_SHARED) {
			ranges = appendRun(ranges, run{m.Start, m.End})
		}
	}
	return ranges
}

// checkChunks makes sure that no page lies outside of the ranges or comes twice.
func checkChunks(chunks []chunk, ranges []run) error {
	var all []run
	for _, c := range chunks {
		all = append(all, c.runs...)
	}
	slices.SortFunc(all, func(a, b run) int { return compare(a.start, b.start) })
	return checkRuns(all, ranges)
}

// checkRuns makes sure that sorted runs do not overlap and lie in the ranges.
func checkRuns(runs, ranges []run) error {
	var last uint64
	for _, r := range runs {
		for len(ranges) > 0 && ranges[0].end <= r.start {
			ranges = ranges[1:]
		}
		if r.start < last || len(ranges) == 0 || r.start < ranges[0].start || r.end > ranges[0].end {
			return corrupt("pages %x-%x", r.start, r.end)
		}
		last = r.end
	}
	return nil
}
