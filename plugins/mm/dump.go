package mm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Prepare implements [sdk.Preparer]: it looks at every file that the tree has
// mapped, so that their build ids are known when it is frozen, and adds up the
// memory.
func (p *plugin) Prepare(ctx context.Context, req *sdk.PrepareRequest) (*sdk.PrepareResponse, error) {
	p.mu.Lock()
	spaces := p.running
	p.mu.Unlock()
	p.forget()
	if spaces == nil {
		p.files.begin()
		var err error
		if spaces, err = p.readSpaces(ctx, req.Session, preview); err != nil {
			return nil, err
		}
	}
	resp := &sdk.PrepareResponse{}
	for _, sp := range spaces {
		resp.RecordBytes += spaceBytes + int64(len(sp.vmas))*mappingBytes
		resp.BulkBytes += int64(sp.status.RssAnon + sp.status.VmSwap + sp.status.RssShmem)
	}
	resp.RecordBytes += resp.BulkBytes / bulkSize * chunkBytes
	return resp, nil
}

// What records take, roughly, in bytes.
const (
	spaceBytes   = 1024
	mappingBytes = 64
	chunkBytes   = 192
)

// Dump implements [sdk.Dumper].
func (p *plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	spaces, err := p.frozenSpaces(ctx, req.Session)
	if err != nil {
		return err
	}
	defer p.forget()
	d := &dump{emit: req.Records, files: map[*file]uint32{}, shared: map[objectKey]*sharedObject{}, held: req.Held}
	defer d.close()
	if err := d.sources(ctx, spaces); err != nil {
		return err
	}
	jobs := make([][]job, len(spaces))
	err = forEach(ctx, len(spaces), func(_, i int) error {
		var err error
		if jobs[i], err = d.space(ctx, spaces[i]); err != nil {
			return fmt.Errorf("memory of task %d: %w", spaces[i].task, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	all := slices.Concat(jobs...)
	shared, err := d.sharedJobs()
	if err != nil {
		return err
	}
	all = append(all, shared...)
	if req.Enabled("live") {
		if all, err = p.postpone(ctx, req, all); err != nil {
			return err
		}
	}
	return p.captureAll(ctx, req, all)
}

// frozenSpaces returns what Check has read of the frozen tree, or reads it.
func (p *plugin) frozenSpaces(ctx context.Context, s *sdk.Session) ([]*space, error) {
	p.mu.Lock()
	spaces := p.frozen
	p.mu.Unlock()
	if spaces != nil {
		return spaces, nil
	}
	p.files.begin()
	spaces, err := p.readSpaces(ctx, s, frozen)
	if err != nil {
		return nil, err
	}
	if err := inquire(ctx, s.Host, spaces); err != nil {
		return nil, err
	}
	for _, sp := range spaces {
		for _, f := range sp.check() {
			if f.Level >= sdk.LevelFlag {
				return nil, fmt.Errorf("task %d: %s: %s: %w", sp.task, f.Subject, f.Text, sdk.ErrUnsupported)
			}
		}
	}
	return spaces, nil
}

// dump emits the records of a frozen tree.
type dump struct {
	emit sdk.Emitter
	// files and shared number what mappings refer to. They do not change once
	// the spaces are emitted.
	files  map[*file]uint32
	shared map[objectKey]*sharedObject
	// order has the objects by number.
	order []*sharedObject
	// held are files without a name.
	held []sdk.HeldFile
}

func (d *dump) close() {
	for _, o := range d.order {
		o.file.Close()
	}
}

// sources emits what several mappings may refer to: files and shared memory.
func (d *dump) sources(ctx context.Context, spaces []*space) error {
	written := map[*file]bool{}
	var files []*file
	add := func(f *file) {
		if f != nil && !f.zero && d.files[f] == 0 {
			files = append(files, f)
			d.files[f] = uint32(len(files))
		}
	}
	for _, sp := range spaces {
		add(sp.exe)
		for i := range sp.vmas {
			v := &sp.vmas[i]
			add(v.file)
			if v.file != nil && v.Shared() && v.Flags.Has(procfs.VMMayWrite) {
				written[v.file] = true
			}
			if err := d.addShared(ctx, sp, v); err != nil {
				return err
			}
		}
	}
	for i, f := range files {
		m := f.record(uint32(i + 1))
		m.SharedWritable = written[f]
		var err error
		if m.Object, err = d.objectOf(f); err != nil {
			return err
		}
		if err := d.emit.Emit(ctx, kindFile, 0, m); err != nil {
			return err
		}
	}
	return nil
}

func (d *dump) addShared(ctx context.Context, sp *space, v *vma) error {
	if v.kind != mmpb.Kind_KIND_SHARED || d.shared[v.object] != nil {
		return nil
	}
	o, err := openShared(sp.pid, v, uint32(len(d.order)+1))
	if err != nil {
		return fmt.Errorf("task %d: %s: %w", sp.task, v.subject(), err)
	}
	d.shared[v.object] = o
	d.order = append(d.order, o)
	return d.emit.Emit(ctx, kindShared, 0, o.record())
}

// mappingsPerRecord keeps records small.
const mappingsPerRecord = 256

// space emits the records of one process and finds out which pages of it have
// to be saved.
func (d *dump) space(ctx context.Context, sp *space) ([]job, error) {
	as, err := sp.record(d.files[sp.exe])
	if err != nil {
		return nil, err
	}
	object := uint64(sp.task)
	if err := d.emit.Emit(ctx, kindSpace, object, as); err != nil {
		return nil, err
	}
	var records []*mmpb.Mapping
	for i := range sp.vmas {
		if v := &sp.vmas[i]; v.kind != mmpb.Kind_KIND_UNSPECIFIED {
			records = append(records, v.record(d.source(v)))
		}
	}
	for part := range slices.Chunk(records, mappingsPerRecord) {
		if err := d.emit.Emit(ctx, kindMappings, object, &mmpb.MappingList{Mappings: part}); err != nil {
			return nil, err
		}
	}
	return d.pages(ctx, sp)
}

// source is the number of what a mapping shows; 0 if it needs none.
func (d *dump) source(v *vma) uint32 {
	switch v.kind {
	case mmpb.Kind_KIND_FILE:
		return d.files[v.file]
	case mmpb.Kind_KIND_SHARED:
		return d.shared[v.object].id
	}
	return 0
}

// pages scans a process's memory, emits its guard pages and makes the jobs.
func (d *dump) pages(ctx context.Context, sp *space) (jobs []job, err error) {
	pagemap, err := procfs.OpenPagemap(sp.pid)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pagemap.Close()) }()
	c, err := sp.scan(pagemap)
	if err != nil {
		return nil, err
	}
	if len(c.guards) > 0 {
		m := &mmpb.Guards{Runs: encodeRuns(c.guards)}
		if err := d.emit.Emit(ctx, kindGuards, uint64(sp.task), m); err != nil {
			return nil, err
		}
	}
	for _, part := range sp.partition(c.pages) {
		for _, group := range cutRuns(part.runs, bulkSize) {
			jobs = append(jobs, job{space: sp, runs: group, copied: part.copied})
		}
	}
	return jobs, nil
}

// sharedJobs makes the jobs for the content of shared memory.
func (d *dump) sharedJobs() ([]job, error) {
	var jobs []job
	for _, o := range d.order {
		if o.segment != nil {
			continue
		}
		runs, err := o.data()
		if err != nil {
			return nil, err
		}
		for _, group := range cutRuns(runs, bulkSize) {
			jobs = append(jobs, job{shared: o, runs: group})
		}
	}
	return jobs, nil
}

// record makes the image's form of the address space.
func (sp *space) record(exe uint32) (*mmpb.AddressSpace, error) {
	auxv, err := procfs.Auxv(sp.pid)
	if err != nil {
		return nil, err
	}
	vdso, err := sp.vdso()
	if err != nil {
		return nil, err
	}
	return &mmpb.AddressSpace{
		PageSize: uint32(pageSize), Fields: sp.fields(), Auxv: auxv, Exe: exe, Vdso: vdso,
		ThpDisabled: !sp.status.THPEnabled, LockFuture: sp.info.lockFuture, MergeAny: sp.info.merge,
	}, nil
}

// captureAll does all jobs, from several goroutines.
func (p *plugin) captureAll(ctx context.Context, req *sdk.DumpRequest, jobs []job) (err error) {
	c := &capture{emit: req.Records, host: req.Host, next: &p.bulk}
	for i := range jobs {
		c.total += int64(runBytes(jobs[i].runs))
	}
	pool := make([]*worker, copiers(req.Deferred))
	for i := range pool {
		pool[i] = &worker{capture: c}
	}
	defer func() {
		for _, w := range pool {
			err = errors.Join(err, w.close())
		}
	}()
	return forEachOf(ctx, len(pool), len(jobs), func(w, i int) error { return pool[w].run(ctx, &jobs[i]) })
}
