package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/host/skeleton"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

// open verifies the whole image while the plugins that it names start.
func (r *flow) open(ctx context.Context) (err error) {
	if r.img, err = image.Open(r.cfg.Image); err != nil {
		return err
	}
	bins, err := r.findPlugins()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return r.phase("verify", &r.res.VerifyMS, func() error { return r.img.Verify(gctx) })
	})
	g.Go(func() (err error) {
		r.plugins, err = dispatch.Start(gctx, bins, dispatch.Options{Log: r.cfg.Log, Memory: dispatch.Recall(bins, ""), Warm: r.cfg.Warm})
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := r.decode(); err != nil {
		return err
	}
	if err := r.checkVersions(); err != nil {
		return err
	}
	if err := r.assignTasks(); err != nil {
		return err
	}
	if err := r.checkJoins(); err != nil {
		return err
	}
	return r.openSessions(ctx)
}

// findPlugins finds the programs of all plugins that the image names, or says
// which are missing.
func (r *flow) findPlugins() ([]dispatch.Binary, error) {
	found, refused := dispatch.Discover(r.cfg.PluginDirs)
	if err := dispatch.Trust(found, r.cfg.TrustedPlugins); err != nil {
		return nil, err
	}
	if err := dispatch.Debug(found, r.cfg.DebuggedPlugins); err != nil {
		return nil, err
	}
	byName := map[string]dispatch.Binary{}
	for _, b := range found {
		byName[b.Name] = b
	}
	r.preferKept(byName)
	var bins []dispatch.Binary
	var errs []error
	for _, p := range r.img.Manifest().Plugins {
		b, ok := byName[p.Name]
		switch {
		case ok:
			bins = append(bins, b)
		case p.Optional:
			r.res.Notes = append(r.res.Notes, fmt.Sprintf("plugin %s %s is not installed: its optional records are skipped", p.Name, p.Version))
		default:
			errs = append(errs, fmt.Errorf("the image needs plugin %s %s, which is not in %v: install firn-plugin-%s there: %w",
				p.Name, p.Version, r.cfg.PluginDirs, p.Name, failure.ErrPlugin))
		}
	}
	if len(errs) > 0 && refused != nil {
		errs = append(errs, refused)
	}
	return bins, errors.Join(errs...)
}

// preferKept takes, of plugins of which the version that wrote the image is kept beside
// the current one, that one.
func (r *flow) preferKept(byName map[string]dispatch.Binary) {
	for _, k := range dispatch.Kept(r.cfg.PluginDirs) {
		for _, p := range r.img.Manifest().Plugins {
			if p.Name == k.Name && p.Version == k.Version {
				current := byName[k.Name]
				k.Debug, k.ThirdParty = current.Debug, k.ThirdParty && (current.Path == "" || current.ThirdParty)
				byName[k.Name] = k
			}
		}
	}
}

// checkVersions makes sure that every plugin reads the records of its name.
func (r *flow) checkVersions() error {
	var errs []error
	for _, want := range r.img.Manifest().Plugins {
		p := r.plugins.Get(want.Name)
		if p == nil {
			continue
		}
		have := map[uint32]uint16{}
		for _, t := range p.Description().Records {
			have[t.Kind] = t.Version
		}
		for _, t := range want.Records {
			if v, ok := have[t.Kind]; (!ok || uint32(v) < t.Version) && !t.Optional {
				errs = append(errs, fmt.Errorf("plugin %s %s cannot read records of kind %d version %d, which version %s wrote: install that one or a newer one: %w: %w",
					want.Name, p.Version(), t.Kind, t.Version, want.Version, sdk.ErrVersion, failure.ErrPlugin))
			}
		}
	}
	return errors.Join(errs...)
}

// decode reads the host's own records.
func (r *flow) decode() (err error) {
	if r.host, err = r.img.HostRecords(); err != nil {
		return err
	}
	r.tree, r.pidns = image.TreeFromProto(r.host.Tree), r.host.PIDs
	if m := r.img.Manifest(); m.OwnProc != r.pidns.HasProc() {
		return fmt.Errorf("the manifest and the tree disagree about a /proc of its own: %w", sdk.ErrCorrupt)
	}
	if r.cfg.NewPIDNamespace && !r.pidns.IsOwn() {
		r.pidns = pidns.New(r.pidns)
	}
	if r.contexts, err = decodeContexts(r.host.Threads); err != nil {
		return err
	}
	r.owners = map[string][]sdk.Resource{}
	maxFD := 15
	for _, o := range r.host.Objects {
		r.owners[o.Plugin] = append(r.owners[o.Plugin], o.Resource)
		if f := o.Resource.File; f != nil {
			r.files = append(r.files, o.Resource)
			for _, ref := range f.Refs {
				maxFD = max(maxFD, ref.FD)
			}
		}
	}
	r.service.base = maxFD + 1
	m := r.img.Manifest()
	r.res.Image, r.res.RootPID = r.cfg.Image, int(m.RootPid) // until it has another one here
	r.res.Tasks, r.res.BytesMemory = len(r.tree.Processes), int64(r.img.Totals().BulkBytes)
	for i := range r.tree.Processes {
		r.res.Threads += len(r.tree.Processes[i].Threads)
	}
	return nil
}

// assignTasks gives every process to the plugin that claims tasks, and shows
// plugins what they attend.
func (r *flow) assignTasks() error {
	var tasks []sdk.Resource
	for i := range r.tree.Processes {
		if p := &r.tree.Processes[i]; !p.Zombie {
			tasks = append(tasks, sdk.Resource{Kind: sdk.KindTask, Object: uint64(p.ID), Task: p.ID})
		}
	}
	assigned, err := r.plugins.Match(tasks)
	if err != nil {
		return err
	}
	if len(assigned.Unclaimed) > 0 {
		return fmt.Errorf("no plugin claims the tasks of the image: %w", failure.ErrPlugin)
	}
	for name, own := range assigned.ByPlugin {
		r.owners[name] = append(r.owners[name], own...)
	}
	var objects []dispatch.Owned
	for _, o := range r.host.Objects {
		objects = append(objects, dispatch.Owned{Plugin: o.Plugin, Resource: o.Resource})
	}
	r.attended = r.plugins.Attended(objects)
	return nil
}

func (r *flow) openSessions(ctx context.Context) error {
	return r.plugins.Each(ctx, nil, func(ctx context.Context, p *dispatch.Plugin) error {
		var blocks []wire.Block
		for _, b := range r.img.Blocks(p.Name()) {
			blocks = append(blocks, wire.Block{Offset: uint64(b.Offset), Length: uint64(b.Length)})
		}
		return p.Open(ctx, dispatch.SessionConfig{
			Host: &hostServices{flow: r, plugin: p.Name()}, Options: r.cfg.Options,
			Image: r.img.File(), Blocks: blocks,
		})
	})
}

// check finds out whether the tree can exist here, before anything is created.
func (r *flow) check(ctx context.Context) error {
	nums, err := r.numbers()
	if err != nil {
		return err
	}
	lines := nums.conflicts(r.tree)
	limit, err := pidMax()
	if err != nil {
		return err
	}
	for i := range r.tree.Processes {
		if id := r.tree.Processes[i].ID; id >= limit {
			lines = append(lines, failure.Line{Finding: sdk.Finding{
				Level: sdk.LevelBlock, Task: id, Subject: "process",
				Text: fmt.Sprintf("this machine gives out numbers below %d only", limit), Help: "raise kernel.pid_max",
			}})
		}
	}
	out, err := nums.outside()
	if err != nil {
		return err
	}
	out.Join = r.cfg.ShellJob
	var blocks []sdk.Finding
	r.plan, blocks = skeleton.New(r.tree, r.pidns, out)
	for _, f := range append(blocks, r.plan.Notes...) {
		lines = append(lines, failure.Line{Finding: f})
	}
	r.keepers = planKeepers(r.tree, nums.used, limit)
	found, err := r.checkImage(ctx)
	if err != nil {
		return err
	}
	lines = append(lines, found...)
	r.note(lines)
	if b := failure.Blockers(lines); len(b) > 0 {
		return &failure.BlockedError{Lines: b, Restore: true}
	}
	return r.prepare()
}

func (r *flow) checkImage(ctx context.Context) ([]failure.Line, error) {
	var mu sync.Mutex
	var lines []failure.Line
	err := r.plugins.Each(ctx, nil, func(ctx context.Context, p *dispatch.Plugin) error {
		found, err := p.CheckImage(ctx, r.round(p))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, f := range found {
			lines = append(lines, failure.Line{Plugin: p.Name(), Finding: f})
		}
		return nil
	})
	return lines, err
}

// prepare opens what the tasks will inherit.
func (r *flow) prepare() (err error) {
	if err := raiseNoFile(); err != nil {
		return fmt.Errorf("raise the limit of descriptors: %w", err)
	}
	var all []*sdk.Process
	for i := range r.tree.Processes {
		all = append(all, &r.tree.Processes[i])
	}
	for i := range r.keepers {
		all = append(all, &r.keepers[i].Process)
	}
	if r.regions, err = newRegions(all); err != nil {
		return err
	}
	s := &r.service
	s.plugins = map[string]int{}
	s.image = s.add(r.img.File())
	s.tapes = s.add(r.regions.file)
	for _, p := range r.plugins.Plugins() {
		fd, err := unix.PidfdOpen(p.PID(), 0)
		if err != nil {
			return fmt.Errorf("plugin %s: pidfd: %w", p.Name(), err)
		}
		s.plugins[p.Name()] = s.add(os.NewFile(uintptr(fd), "pidfd"))
	}
	return nil
}

// close releases what the host holds. Errors of plugins that have done their
// work do not matter any more.
func (r *flow) close(ctx context.Context, failed error) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	var errs []error
	if r.plugins != nil {
		if failed != nil {
			errs = append(errs, r.plugins.Abort(ctx))
		}
		errs = append(errs, r.plugins.Close())
	}
	if err := errors.Join(errs...); err != nil {
		r.cfg.Log.Warn("end plugins", "error", err)
	}
	errs = nil
	if r.ns != nil {
		errs = append(errs, r.ns.close())
	}
	for _, f := range r.service.files[min(2, len(r.service.files)):] {
		errs = append(errs, f.Close())
	}
	if r.regions != nil {
		r.engine.Close()
		errs = append(errs, r.regions.close())
	}
	if r.img != nil {
		errs = append(errs, r.img.Close())
	}
	return errors.Join(errs...)
}

// hostServices is the host as one plugin sees it.
type hostServices struct {
	flow   *flow
	plugin string
}

// RunTapes implements [sdk.Host].
func (h *hostServices) RunTapes(ctx context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	return h.flow.engine.RunTapes(ctx, runs)
}

// Trace implements [sdk.Host].
func (h *hostServices) Trace(context.Context, []int) ([]sdk.TraceInfo, error) {
	return nil, fmt.Errorf("trace in a restore: %w", sdk.ErrUnsupported)
}

// Snapshot implements [sdk.Host].
func (h *hostServices) Snapshot(context.Context, []int) ([]sdk.Snapshot, error) {
	return nil, fmt.Errorf("copy processes in a restore: %w", sdk.ErrUnsupported)
}

// Progress implements [sdk.Host].
func (h *hostServices) Progress(done, total int64) {
	if h.flow.cfg.Progress != nil {
		h.flow.cfg.Progress(h.plugin, done, total)
	}
}
