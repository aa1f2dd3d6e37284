package checkpoint

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// collect takes stock of the frozen tree, refuses what cannot be carried, and
// has the plugins write their records.
func (f *flow) collect(ctx context.Context) error {
	f.progress("check")
	if err := f.take(ctx, f.frozen.Processes, false); err != nil {
		return err
	}
	// The plugins read first and ask tasks then.
	go func(frozen *task.Frozen) {
		if err := frozen.Warm(ctx); err != nil {
			f.cfg.Log.Debug("make tasks ready for tapes", "error", err)
		}
	}(f.frozen)
	lines, err := f.plan.check(ctx, checkFrozen)
	if err != nil {
		return err
	}
	if err := blocked(lines); err != nil {
		return err
	}
	f.keepNotes(lines)

	f.progress("collect")
	start := time.Now()
	f.writer, err = f.createImage()
	if err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	if !f.cfg.NoSync && !f.cfg.LeaveRunning {
		// The tree does not wait for us to be let go: the disk may as well
		// begin.
		f.writer.WriteBehind()
	}
	if err := f.hostRecords(); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := f.dump(ctx); err != nil {
		return err
	}
	f.res.CaptureMS = ui.MS(time.Since(start))
	return nil
}

func (f *flow) createImage() (*image.Writer, error) {
	m := f.manifest()
	p := image.Packing{
		Level: f.cfg.Compression, Base: f.base, Dedup: f.cfg.Dedup, Buffered: int64(memoryLimit(f.cfg.MemoryLimit)),
	}
	if f.cfg.Image == "-" {
		return image.NewPackedWriter(f.cfg.Stdout, m, p)
	}
	return image.CreatePacked(f.cfg.Image, m, p)
}

func (f *flow) manifest() *imagepb.Manifest {
	tree := f.plan.tree
	m := &imagepb.Manifest{
		CreatedUnixNano: time.Now().UnixNano(), FirnVersion: f.cfg.Version, KernelRelease: kernelRelease(),
		RootPid: uint32(tree.Root), Mode: f.mode(), OwnProc: f.plan.pids.Map.HasProc(),
		Counts: &imagepb.Counts{Processes: uint32(len(tree.Processes))},
	}
	for i := range tree.Processes {
		m.Counts.Threads += uint32(len(tree.Processes[i].Threads))
	}
	for _, r := range f.plan.set.Resources {
		switch r.Kind {
		case sdk.KindFile:
			m.Counts.Files++
		case sdk.KindNamespace:
			m.Counts.Namespaces++
		case sdk.KindVMA:
			m.Counts.MemoryBytes += r.VMA.Len()
		}
	}
	for _, p := range f.plan.owners() {
		m.Plugins = append(m.Plugins, p.Manifest())
	}
	return m
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
