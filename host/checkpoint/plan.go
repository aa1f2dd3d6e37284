package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/pidns/survey"
	"github.com/firn-cr/firn/host/resource"
	"github.com/firn-cr/firn/host/skeleton"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/host/userns"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

// plan is what is known of a tree and who takes care of which part.
type plan struct {
	plugins *dispatch.Set
	// claims are those of all plugins that were found, also of the ones that
	// were not started because nothing is theirs.
	claims   []sdk.Description
	rules    []dispatch.Rule
	procs    []*task.Process
	pids     *survey.View
	users    *userns.View
	tree     *sdk.Tree
	set      *resource.Set
	assigned dispatch.Assignment
	// held is what resources of plugins hold, by plugin, since the last check.
	held map[string][]sdk.HeldFile
	// start starts plugins that are wanted for the first time.
	start func(context.Context) error
}

// makePlan looks at the running tree, with its plugins started, and refuses
// what can be seen to be impossible without freezing.
func (f *flow) makePlan(ctx context.Context) error {
	f.progress("plan")
	if err := f.findRoot(); err != nil {
		return err
	}
	if err := f.startPlugins(ctx); err != nil {
		return err
	}
	if err := f.survey(ctx); err != nil {
		return err
	}
	if text := missingRight(); text != "" {
		return fmt.Errorf("process %d: %s: %w", f.cfg.PID, text, sdk.ErrNotPermitted)
	}
	if err := f.quiesce(ctx); err != nil {
		return err
	}
	if err := f.previewCheck(ctx); err != nil {
		return err
	}
	return f.prepare(ctx)
}

// quiesce has plugins bring programs to rest, which may change what the tree has.
func (f *flow) quiesce(ctx context.Context) error {
	if !slices.ContainsFunc(f.plan.owners(), func(p *dispatch.Plugin) bool { return p.Has(wire.PhaseQuiesce) }) {
		return nil
	}
	f.progress("quiesce")
	err := f.eachOwner(ctx, func(ctx context.Context, p *dispatch.Plugin, r dispatch.Round) error { return p.Quiesce(ctx, r) })
	if err != nil {
		return err
	}
	f.plan.set = nil
	return f.survey(ctx)
}

// survey takes stock of the running tree, unless the preview did: the tree goes
// on changing, and what counts is what the frozen one has.
func (f *flow) survey(ctx context.Context) error {
	if f.plan.set != nil {
		return nil
	}
	procs, err := task.Walk(f.roots)
	if err != nil {
		return err
	}
	return f.take(ctx, procs, true)
}

// take takes stock of a tree, and starts the plugins that are wanted for the
// first time.
func (f *flow) take(ctx context.Context, procs []*task.Process, running bool) error {
	if err := f.plan.take(ctx, procs, running); err != nil {
		return err
	}
	return f.startMissing(ctx)
}

// startMissing starts the plugins that are wanted and do not run yet.
func (f *flow) startMissing(ctx context.Context) error {
	var missing []dispatch.Binary
	for _, b := range f.bins {
		if f.plan.assigned.Has(b.Name) && f.plugins.Get(b.Name) == nil {
			missing = append(missing, b)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	added, err := f.plugins.Add(ctx, missing, f.options())
	if err != nil {
		return err
	}
	return f.openSessions(ctx, added)
}

func (f *flow) startPlugins(ctx context.Context) error {
	// Plugins that are refused matter only if their resources are there: then
	// nobody claims these. Say why.
	bins, refused := dispatch.Discover(f.cfg.PluginDirs)
	if refused != nil {
		f.cfg.Log.Warn("plugins were refused", "error", refused)
	}
	if len(bins) == 0 {
		return errors.Join(fmt.Errorf("no plugins in %v: %w", f.cfg.PluginDirs, failure.ErrPlugin), refused)
	}
	bins, err := f.cfg.Select(bins)
	if err != nil {
		return err
	}
	f.bins = bins
	f.plan = &plan{rules: f.cfg.Rules, start: f.startMissing}
	start := bins
	f.memory = dispatch.Recall(bins, "")
	if known, ok := f.memory.Descriptions(bins); ok {
		f.plan.claims = known
		if err := f.preview(ctx); err != nil {
			return err
		}
		start = slices.DeleteFunc(slices.Clone(bins), func(b dispatch.Binary) bool { return !f.plan.assigned.Has(b.Name) })
	}
	set, err := dispatch.Start(ctx, start, f.options())
	if err != nil {
		return err
	}
	f.plugins, f.plan.plugins = set, set
	if f.plan.claims == nil {
		f.plan.claims = set.Descriptions()
	}
	return f.openSessions(ctx, set.Plugins())
}

// preview takes stock of the running tree before any plugin runs, to find out
// which are wanted.
func (f *flow) preview(ctx context.Context) error {
	procs, err := task.Walk(f.roots)
	if err != nil {
		return err
	}
	return f.plan.take(ctx, procs, true)
}

func (f *flow) options() dispatch.Options {
	return dispatch.Options{Log: f.cfg.Log, Arena: f.arena(), Memory: f.memory, Warm: f.cfg.Warm}
}

// arena decides on the memory through which records travel. A limit on the
// size of files holds for shared memory too: under one, records travel by
// messages.
func (f *flow) arena() *dispatch.ArenaOptions {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err == nil && limit.Cur != unix.RLIM_INFINITY {
		return nil
	}
	opt := &dispatch.ArenaOptions{Mode: hbuf.WriteThrough, Initial: initialArena, Warm: directArena}
	if f.cfg.Deferred {
		opt.Mode, opt.Warm = hbuf.Deferred, hbuf.DefaultWarm
		opt.MemoryLimit = memoryLimit(f.cfg.MemoryLimit)
	}
	return opt
}

// directArena is how much memory goes round in direct mode: enough for plugin and
// host not to wait for each other, and little enough for the processors' cache,
// in which the host then finds what the plugin has copied (docs/performance.md).
const directArena = 8 << 20

// initialArena is what a plugin has of its arena before the freeze.
const initialArena = 64 << 10

// memoryLimit is what deferred mode may use: a tenth of the machine's memory
// unless told otherwise.
func memoryLimit(limit int64) uint64 {
	if limit > 0 {
		return uint64(limit)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return hbuf.DefaultArena
	}
	return info.Totalram * uint64(info.Unit) / 10
}

func (f *flow) openSessions(ctx context.Context, plugins []*dispatch.Plugin) error {
	return f.plugins.Each(ctx, plugins, func(ctx context.Context, p *dispatch.Plugin) error {
		return p.Open(ctx, dispatch.SessionConfig{Host: &hostServices{flow: f, plugin: p.Name()}, Options: f.cfg.Options})
	})
}

// prepare warms up what would cost frozen time otherwise.
func (f *flow) prepare(ctx context.Context) error {
	return f.eachOwner(ctx, func(ctx context.Context, p *dispatch.Plugin, r dispatch.Round) error {
		estimate, err := p.Prepare(ctx, r)
		if err != nil {
			return err
		}
		if !f.cfg.Deferred {
			// The same few buffers are used again and again.
			estimate.RecordBytes, estimate.BulkBytes = 0, min(estimate.BulkBytes, directArena)
		}
		return p.Populate(ctx, estimate)
	})
}

// take enumerates the resources of a tree and assigns them.
func (p *plan) take(ctx context.Context, procs []*task.Process, running bool) (err error) {
	if p.pids, err = survey.Read(procs, !running); err != nil {
		return err
	}
	p.procs = slices.DeleteFunc(procs, p.pids.Gone)
	if p.users, err = userns.Read(p.procs, !running); err != nil {
		return err
	}
	p.tree = treeOf(p.procs, p.pids, p.users)
	if p.set, err = resource.Enumerate(ctx, p.tree, carried{p.pids, p.users}, running); err != nil {
		return err
	}
	p.tree.UserNamespaces = p.users.Namespaces // with those of which only others are known
	for i := range p.tree.Processes {
		p.tree.Processes[i].Reserved = p.set.Free
	}
	p.held = map[string][]sdk.HeldFile{}
	p.assigned, err = dispatch.Match(p.claims, p.set.Resources, p.rules...)
	return err
}

// round is the argument of a phase for one plugin.
func (p *plan) round(name string, frozen bool) dispatch.Round {
	return dispatch.Round{
		Tree: p.tree, Resources: p.assigned.ByPlugin[name], Attended: p.assigned.Attended[name], Held: p.held[name], Frozen: frozen,
	}
}

// owners are the plugins that own or attend something, in their order.
func (p *plan) owners() []*dispatch.Plugin {
	return slices.DeleteFunc(p.plugins.Plugins(), func(q *dispatch.Plugin) bool {
		return !p.assigned.Has(q.Name())
	})
}

// checkKind says what a check is for.
type checkKind uint8

const (
	checkPreview checkKind = iota // of a tree that is going to be frozen and checked again
	checkRunning                  // of a tree that goes on running
	checkFrozen
)

// check asks everybody what is in the way. Nothing is left out because
// something else blocks already.
func (p *plan) check(ctx context.Context, kind checkKind) ([]failure.Line, error) {
	lines := hostFindings(p.procs, p.pids)
	for _, f := range p.userFindings() {
		lines = append(lines, failure.Line{Finding: f})
	}
	if kind != checkFrozen { // a tree that is frozen has it suspended
		lines = append(lines, seccompFindings(p.procs, p.pids)...)
	}
	for _, f := range p.set.Findings {
		lines = append(lines, failure.Line{Finding: f})
	}
	_, blocks := skeleton.New(p.tree, p.pids.Map, skeleton.Nothing())
	for _, b := range blocks {
		lines = append(lines, failure.Line{Finding: b})
	}
	asked, err := p.ask(ctx, kind)
	lines = append(lines, asked...)
	for _, r := range p.assigned.Unclaimed {
		lines = append(lines, p.unclaimed(r))
	}
	slices.SortStableFunc(lines, func(a, b failure.Line) int { return int(a.Task) - int(b.Task) })
	for i := range lines {
		lines[i].PID = p.here(lines[i].Task)
	}
	return lines, err
}

// here is the host's own number of a task, 0 if that is its ID.
func (p *plan) here(id sdk.TaskID) int {
	if pid := p.pids.PID(id); pid != task.HostPID(id) {
		return int(pid)
	}
	return 0
}

func (p *plan) unclaimed(r sdk.Resource) failure.Line {
	l := failure.Line{Finding: sdk.Finding{Level: sdk.LevelBlock, Task: r.Task, Object: r.Object}}
	switch r.Kind {
	case sdk.KindFile:
		l.Subject = r.File.Subject()
		l.Text = "nobody claims " + r.File.Link
		if s := r.File.Socket; s != nil {
			l.Text += fmt.Sprintf(" (family %d, type %d, protocol %d)", s.Family, s.Type, s.Protocol)
		}
	case sdk.KindVMA:
		l.Subject = fmt.Sprintf("mapping %x-%x", r.VMA.Start, r.VMA.End)
		l.Text = "nobody claims it: " + r.VMA.Path
	case sdk.KindNamespace:
		l.Subject = r.Namespace.Name + " namespace"
		l.Text = fmt.Sprintf("nobody claims %s namespaces, and it is not that of firn", r.Namespace.Name)
	default:
		l.Subject = r.Kind.String()
		l.Text = "nobody claims it"
	}
	l.Help = "a plugin that claims it would carry it"
	if n := r.Namespace; n != nil {
		if n.Name == "user" {
			l.Text, l.Help = "is not inside firn's", "run firn in a user namespace around it"
		}
		if text, help := p.pids.WhyNot(n.Name, n.Ino); text != "" {
			l.Text, l.Help = text, help
		}
	}
	return l
}

// blocked makes an error of the lines that block.
func blocked(lines []failure.Line) error {
	if b := failure.Blockers(lines); len(b) > 0 {
		return &failure.BlockedError{Lines: b}
	}
	return nil
}

// hostServices is the host as one plugin sees it.
type hostServices struct {
	flow   *flow
	plugin string
}

// RunTapes implements [sdk.Host].
func (h *hostServices) RunTapes(ctx context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	if h.flow.frozen == nil {
		return nil, errNotFrozen
	}
	return h.flow.frozen.RunTapes(ctx, runs)
}

// Trace implements [sdk.Host].
func (h *hostServices) Trace(ctx context.Context, tids []int) ([]sdk.TraceInfo, error) {
	if h.flow.frozen == nil {
		return nil, errNotFrozen
	}
	return h.flow.frozen.Trace(ctx, tids)
}

// Snapshot implements [sdk.Host].
func (h *hostServices) Snapshot(ctx context.Context, pids []int) ([]sdk.Snapshot, error) {
	if h.flow.frozen == nil {
		return nil, errNotFrozen
	}
	return h.flow.frozen.Snapshot(ctx, pids)
}

// Progress implements [sdk.Host].
func (h *hostServices) Progress(done, total int64) {
	if h.flow.cfg.Progress != nil {
		h.flow.cfg.Progress(h.plugin, done, total)
	}
}

var errNotFrozen = fmt.Errorf("the tree is not frozen: %w", sdk.ErrAborted)
