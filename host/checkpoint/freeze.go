package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// freeze stops the tree.
func (f *flow) freeze(ctx context.Context) (err error) {
	f.progress("freeze")
	procs := f.plan.procs
	if procs == nil {
		if procs, err = task.Walk(f.roots); err != nil {
			return err
		}
	}
	groups, lines, err := frozenGroups(procs)
	if err != nil {
		return err
	}
	if err := blocked(lines); err != nil {
		return err
	}
	f.froze = time.Now()
	f.frozen, err = task.Freeze(ctx, f.tracer, f.roots, groups)
	f.res.FreezeMS = ui.MS(time.Since(f.froze))
	return err
}

// frozenGroups finds the control groups that keep the tree from running, and
// reports those that would keep it from being frozen by a tracer.
func frozenGroups(procs []*task.Process) (*task.Groups, []failure.Line, error) {
	groups, why, err := task.FrozenGroups(procs)
	var lines []failure.Line
	for _, p := range procs {
		if text := why[p.PID]; text != "" {
			lines = append(lines, failure.Line{Finding: sdk.Finding{
				Level: sdk.LevelBlock, Task: sdk.TaskID(p.PID), Subject: "process", Text: text,
			}})
		}
	}
	return groups, lines, err
}

// eachOwner calls every plugin that owns or attends something.
func (f *flow) eachOwner(ctx context.Context, call func(context.Context, *dispatch.Plugin, dispatch.Round) error) error {
	return f.plugins.Each(ctx, f.plan.owners(), func(ctx context.Context, p *dispatch.Plugin) error {
		return call(ctx, p, f.plan.round(p.Name(), f.frozen != nil))
	})
}

// dump has every plugin emit its records.
func (f *flow) dump(ctx context.Context) error {
	for _, p := range f.plan.owners() {
		p.SetSink(f.writer.Stream(p.Name()))
	}
	took := make([]float64, len(f.plan.owners()))
	index := map[string]int{}
	for i, p := range f.plan.owners() {
		index[p.Name()] = i
	}
	err := f.eachOwner(ctx, func(ctx context.Context, p *dispatch.Plugin, r dispatch.Round) error {
		start := time.Now()
		err := p.Dump(ctx, r)
		took[index[p.Name()]] = ui.MS(time.Since(start))
		return err
	})
	for i, p := range f.plan.owners() {
		f.res.Plugins = append(f.res.Plugins, PluginResult{Name: p.Name(), Version: p.Version(), DumpMS: took[i]})
	}
	return err
}

// closePlugins ends the sessions and the plugins.
func (f *flow) closePlugins(ctx context.Context, failed error) error {
	if f.plugins == nil {
		return nil
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	var errs []error
	if failed != nil {
		errs = append(errs, f.plugins.Abort(ctx))
	}
	if err := errors.Join(append(errs, f.plugins.Close())...); err != nil {
		// The outcome of the checkpoint does not depend on it.
		f.cfg.Log.Warn("end plugins", "error", err)
	}
	return nil
}

func (f *flow) mode() string {
	switch {
	case f.cfg.Live:
		return "live"
	case f.cfg.Deferred:
		return "deferred"
	}
	return "stop"
}

// account fills in the result.
func (f *flow) account(totals image.Totals) {
	r := &f.res
	r.Image, r.RootPID, r.Mode = f.cfg.Image, f.cfg.PID, f.mode()
	r.Tasks, r.Resources = len(f.plan.tree.Processes), len(f.plan.set.Resources)
	for i := range f.plan.tree.Processes {
		r.Threads += len(f.plan.tree.Processes[i].Threads)
	}
	r.BytesMemory, r.BytesImage = int64(totals.BulkBytes), int64(totals.FileBytes)
	for i := range r.Plugins {
		r.Plugins[i].Records = int64(totals.Streams[r.Plugins[i].Name].Records)
	}
	for _, n := range f.notes {
		r.Notes = append(r.Notes, n.String())
	}
}

func (f *flow) keepNotes(lines []failure.Line) {
	for _, l := range lines {
		if l.Level == sdk.LevelNote {
			f.notes = append(f.notes, l)
		}
	}
}

// unreaped says which processes have ended without being gone.
func unreaped(pids []task.HostPID) string {
	return fmt.Sprintf("ended, but not reaped yet by their parents: %v; their numbers are not free", pids)
}
