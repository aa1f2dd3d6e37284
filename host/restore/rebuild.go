package restore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

// round is the argument of a phase for one plugin. A plugin finds processes
// and threads in the tree and its own files and namespaces in the resources;
// what mappings and tasks it owns, its records tell.
func (r *flow) round(p *dispatch.Plugin) dispatch.Round {
	return dispatch.Round{
		Tree: r.tree, Resources: r.owners[p.Name()], Attended: r.attended[p.Name()],
		ImageFD: r.service.image, PluginFD: r.service.plugins[p.Name()], Held: r.held[p.Name()],
	}
}

// rebuild has the plugins build everything that the processes had.
func (r *flow) rebuild(ctx context.Context) error {
	took := newTimes()
	each := func(ctx context.Context, phase wire.Phase) error {
		return r.plugins.Each(ctx, nil, func(ctx context.Context, p *dispatch.Plugin) error {
			defer took.add(p.Name(), time.Now())
			_, err := p.Run(ctx, phase, r.round(p))
			return err
		})
	}
	step := func(ms *float64, phases ...wire.Phase) error {
		for _, ph := range phases {
			if err := r.phase(ph.String(), ms, func() error { return each(ctx, ph) }); err != nil {
				return err
			}
		}
		return nil
	}
	if err := step(&r.res.RebuildMS, wire.PhaseRestoreNamespaces); err != nil {
		return err
	}
	// Objects are opened in the plugins' own processes: that needs no task, and
	// nobody has to wait for it who does not hold one of them.
	objects, octx := errgroup.WithContext(ctx)
	objects.Go(func() error { return r.restoreObjects(octx, took) })
	if r.anyHeld() {
		if err := objects.Wait(); err != nil {
			return err
		}
		if err := r.findHeld(); err != nil {
			return err
		}
	}
	memErr := step(&r.res.MemoryMS, wire.PhaseRestoreMemory)
	if err := objects.Wait(); err != nil {
		return err
	}
	if memErr != nil {
		return memErr
	}
	if len(r.tree.UserNamespaces) > 0 {
		if err := r.isolate(ctx, func() error { return step(&r.res.RebuildMS, wire.PhaseRestoreIdentity) }); err != nil {
			return err
		}
	}
	if err := r.phase("threads", &r.res.RebuildMS, func() error { return r.cloneThreads(ctx) }); err != nil {
		return err
	}
	if err := r.phase("PID namespaces", &r.res.RebuildMS, func() error { return r.enterNamespaces(ctx) }); err != nil {
		return err
	}
	if err := r.phase("files", &r.res.RebuildMS, func() error { return r.install(ctx, func(p *sdk.Process) bool { return !inUserNamespace(p) }) }); err != nil {
		return err
	}
	if err := step(&r.res.RebuildMS, wire.PhaseLinkFiles, wire.PhaseRestoreTasks); err != nil {
		return err
	}
	if err := r.exitMains(ctx); err != nil {
		return err
	}
	err := step(&r.res.RebuildMS, wire.PhaseSeal)
	r.account(took)
	return errors.Join(err, r.endKeepers(ctx))
}

// isolate has processes enter their user namespaces, after all that they would
// have no right to do inside.
func (r *flow) isolate(ctx context.Context, identify func() error) error {
	err := r.phase("files", &r.res.RebuildMS, func() error { return r.install(ctx, inUserNamespace) })
	if err != nil {
		return err
	}
	if err := identify(); err != nil {
		return err
	}
	return r.phase("user namespaces", &r.res.RebuildMS, func() error { return r.enterUsers(ctx) })
}

// restoreObjects collects the descriptors of all objects.
func (r *flow) restoreObjects(ctx context.Context, took *times) error {
	var mu sync.Mutex
	return r.plugins.Each(ctx, nil, func(ctx context.Context, p *dispatch.Plugin) error {
		defer took.add(p.Name(), time.Now())
		list, err := p.RestoreObjects(ctx, r.round(p))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		mine := map[uint64]bool{}
		for _, res := range r.owners[p.Name()] {
			mine[res.Object] = true
		}
		for _, o := range list {
			if !mine[o.Object] {
				return fmt.Errorf("plugin %s provided object %d, which is not its own: %w", p.Name(), o.Object, sdk.ErrCorrupt)
			}
			r.provided[o.Object] = provided{pluginFD: r.service.plugins[p.Name()], pid: p.PID(), fd: o.FD}
		}
		return nil
	})
}

// resumed tells the plugins that the tree runs. The tree is not theirs to lose
// any more: an error is worth a note only.
func (r *flow) resumed(ctx context.Context) error {
	ctx, cancel := detached(ctx) // no --timeout ends what is not to be undone
	defer cancel()
	err := r.plugins.Each(ctx, nil, func(ctx context.Context, p *dispatch.Plugin) error {
		return p.Resumed(ctx, r.round(p))
	})
	if err != nil {
		r.res.Notes = append(r.res.Notes, fmt.Sprintf("the tree runs, but: %v", err))
	}
	return nil
}

func (r *flow) account(took *times) {
	totals := r.img.Totals()
	for _, p := range r.plugins.Plugins() {
		r.res.Plugins = append(r.res.Plugins, PluginResult{
			Name: p.Name(), Version: p.Version(), RestoreMS: took.of(p.Name()),
			Records: int64(totals.Streams[p.Name()].Records),
		})
	}
}

// times adds up how long plugins took.
type times struct {
	mu  sync.Mutex
	sum map[string]time.Duration
}

func newTimes() *times { return &times{sum: map[string]time.Duration{}} }

func (t *times) add(name string, start time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum[name] += time.Since(start)
}

func (t *times) of(name string) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return ui.MS(t.sum[name])
}
