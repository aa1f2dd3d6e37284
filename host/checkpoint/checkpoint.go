// Package checkpoint saves a process tree into an image.
//
// The flow is plan, freeze, collect, thaw, drain, commit, end; [Run] reads as
// it and every phase has a file. Until the commit has succeeded the tree can
// always go on: whatever fails, it is thawed and no part of an image stays.
package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/image/delta"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// cleanupTime bounds what must be done after a failure or a cancellation.
const cleanupTime = 30 * time.Second

// Run checkpoints a tree.
func Run(ctx context.Context, cfg Config) (Result, error) {
	start := time.Now()
	if cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, cfg.Timeout, fmt.Errorf("--timeout %v: %w", cfg.Timeout, sdk.ErrTimeout))
		defer cancel()
	}
	f := &flow{cfg: cfg}
	err := f.run(ctx)
	f.res.TotalMS = ui.MS(time.Since(start))
	return f.res, failure.Because(ctx, err)
}

// flow is one checkpoint.
type flow struct {
	cfg     Config
	res     Result
	tracer  *task.Tracer
	plugins *dispatch.Set
	bins    []dispatch.Binary // all that were found
	memory  dispatch.Memory
	plan    *plan
	roots   task.Roots
	frozen  *task.Frozen
	thawed  *task.Frozen // what frozen was
	froze   time.Time
	writer  *image.Writer
	base    *delta.Base // of the parent's pages; nil without one
	notes   []failure.Line
}

func (f *flow) run(ctx context.Context) (err error) {
	f.tracer, err = task.NewTracer(f.cfg.Log.Named("task"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.tracer.Close()) }()

	defer func() { err = errors.Join(err, f.closePlugins(ctx, err)) }()
	if err := f.makePlan(ctx); err != nil {
		return err
	}

	if err := f.readParent(ctx); err != nil {
		return fmt.Errorf("--parent %s: %w", f.cfg.Parent, err)
	}
	if err := f.freeze(ctx); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	defer func() { err = errors.Join(err, f.release(ctx, err)) }()

	if err := f.collect(ctx); err != nil {
		return err
	}
	if err := f.thaw(ctx); err != nil {
		return err
	}
	if err := f.drain(ctx); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := f.commit(ctx); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return f.end(ctx)
}

// progress reports a phase.
func (f *flow) progress(phase string) {
	f.cfg.Log.Info("phase", "name", phase)
	if f.cfg.Progress != nil {
		f.cfg.Progress(phase, 0, 0)
	}
}

// detached is a context for what must happen even though ctx has ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
}

// release brings the tree and the disk back to where they were. It is called
// however the flow ended and does nothing for what was finished.
func (f *flow) release(ctx context.Context, failed error) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	var errs []error
	if f.writer != nil && failed != nil {
		errs = append(errs, f.writer.Abort())
	}
	if f.frozen != nil {
		if err := f.frozen.Thaw(ctx); err != nil {
			errs = append(errs, fmt.Errorf("thaw the tree: %w: %w", err, failure.ErrDamaged))
		}
		f.frozen, f.thawed = nil, f.frozen
	}
	errs = append(errs, f.dropSnapshots(ctx))
	return errors.Join(errs...)
}
