package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk/wire"
)

// thaw lets the tree run again, if it is to; else it stands still until the
// image is safe. From here on the tree's frozen time has ended: what happens
// next does not depend on it any more.
func (f *flow) thaw(ctx context.Context) error {
	f.res.FrozenMS = ui.MS(time.Since(f.froze))
	if !f.cfg.LeaveRunning {
		return nil
	}
	f.progress("thaw")
	if err := f.frozen.Thaw(ctx); err != nil {
		return fmt.Errorf("thaw: %w", err)
	}
	f.res.FrozenMS = ui.MS(time.Since(f.froze))
	f.frozen, f.thawed = nil, f.frozen
	return nil
}

// drain writes what was kept in memory.
func (f *flow) drain(ctx context.Context) error {
	f.progress("write")
	start := time.Now()
	if !f.cfg.NoSync {
		f.writer.WriteBehind()
	}
	if err := f.eachOwner(ctx, func(ctx context.Context, p *dispatch.Plugin, r dispatch.Round) error {
		return p.Thawed(ctx, r)
	}); err != nil {
		return err
	}
	if err := f.dropSnapshots(ctx); err != nil {
		return err
	}
	if err := f.plugins.Drain(ctx); err != nil {
		return err
	}
	f.res.WriteMS = ui.MS(time.Since(start))
	return nil
}

// dropSnapshots ends what plugins have read of after the thaw.
func (f *flow) dropSnapshots(ctx context.Context) error {
	if f.thawed == nil {
		return nil
	}
	if err := f.thawed.DropSnapshots(ctx); err != nil {
		return fmt.Errorf("end the copies of processes: %w", err)
	}
	return nil
}

// commit makes the image whole and, unless told otherwise, durable.
func (f *flow) commit(ctx context.Context) error {
	f.progress("commit")
	start := time.Now()
	totals, err := f.writer.Commit(ctx, image.CommitOptions{Sync: !f.cfg.NoSync})
	if err != nil {
		return err
	}
	f.writer = nil
	f.res.CommitMS = ui.MS(time.Since(start))
	f.account(totals)
	return nil
}

// end does what the caller wants of the tree now that the image is safe.
func (f *flow) end(ctx context.Context) error {
	if f.frozen == nil {
		return nil
	}
	frozen := f.frozen
	f.frozen = nil
	if f.cfg.LeaveStopped {
		f.progress("stop")
		return frozen.ThawStopped(ctx)
	}
	f.progress("end")
	// The image is safe: a canceled context must not leave half a tree.
	ctx, cancel := detached(ctx)
	defer cancel()
	left, err := f.kill(ctx, frozen)
	if err != nil {
		return fmt.Errorf("the image is safe, but ending the tree: %w", err)
	}
	if len(left) > 0 {
		f.res.Notes = append(f.res.Notes, unreaped(left))
	}
	return nil
}

// kill ends the tree. Plugins that have nothing to do after it end meanwhile.
func (f *flow) kill(ctx context.Context, frozen *task.Frozen) ([]task.HostPID, error) {
	late := slices.ContainsFunc(f.plan.owners(), func(p *dispatch.Plugin) bool { return p.Has(wire.PhaseEnded) })
	var plugins errgroup.Group
	if !late {
		plugins.Go(func() error { return f.closePlugins(ctx, nil) })
	}
	left, err := frozen.Kill(ctx)
	if late && err == nil {
		err = f.eachOwner(ctx, func(ctx context.Context, p *dispatch.Plugin, r dispatch.Round) error { return p.Ended(ctx, r) })
		err = errors.Join(err, f.closePlugins(ctx, nil))
	}
	return left, errors.Join(err, plugins.Wait())
}
