// Package restore brings a process tree back from an image.
//
// The flow is open, skeleton, rebuild, seal, resume; [Run] reads as it and
// every phase has a file. Nothing is created before the whole image is
// verified and every plugin has agreed; whatever fails before the tree runs,
// every task that was created is ended.
package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/host/skeleton"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// cleanupTime bounds what must be done after a failure or a cancellation.
const cleanupTime = 30 * time.Second

// flow is one restore.
type flow struct {
	cfg Config
	res Result

	tracer  *task.Tracer
	engine  *task.Engine
	plugins *dispatch.Set

	img      *image.Image
	host     *image.HostRecords
	tree     *sdk.Tree
	files    []sdk.Resource
	owners   map[string][]sdk.Resource // plugin -> its files and namespaces
	attended map[string][]sdk.Resource // plugin -> those of others that it attends
	contexts map[sdk.TaskID]*task.Context

	service  serviceFDs
	regions  *regions
	provided map[uint64]provided
	// held is what resources of plugins hold, once it is there.
	held    map[string][]sdk.HeldFile
	created []created
	// pids are the processes that were created, by their numbers in the image.
	pids map[sdk.TaskID]task.HostPID
	// plan is how the processes come about.
	plan skeleton.Plan
	// pidns are the PID namespaces of the tree; nil if it has none.
	pidns *pidns.Map
	// keepers are processes that exist while the tree is rebuilt.
	keepers []keeper
	// ns is the tree's own PID namespace, once it exists; nil if it has none.
	ns *namespace
}

// Run restores a tree. The root is a child of this process.
func Run(ctx context.Context, cfg Config) (*Running, Result, error) {
	start := time.Now()
	if cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, cfg.Timeout, fmt.Errorf("--timeout %v: %w", cfg.Timeout, sdk.ErrTimeout))
		defer cancel()
	}
	r := &flow{cfg: cfg, provided: map[uint64]provided{}, pids: map[sdk.TaskID]task.HostPID{}}
	err := r.run(ctx)
	r.res.TotalMS = ui.MS(time.Since(start))
	if err != nil {
		return nil, r.res, failure.Because(ctx, err)
	}
	return &Running{PID: r.res.RootPID, Init: r.res.InitPID}, r.res, nil
}

func (r *flow) run(ctx context.Context) (err error) {
	r.tracer, err = task.NewTracer(r.cfg.Log.Named("task"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.tracer.Close()) }()
	r.engine = task.NewEngine(r.tracer)
	own, err := OwnMounts(&r.cfg)
	if err != nil {
		return err
	}
	if own {
		// Before there are plugins, which share it.
		if err := aloneInMountNamespace(); err != nil {
			return err
		}
	}

	if err := r.open(ctx); err != nil {
		return errors.Join(err, r.close(ctx, err))
	}
	defer func() { err = errors.Join(err, r.close(ctx, err)) }()

	if err := r.check(ctx); err != nil {
		return err
	}
	if err := r.build(ctx); err != nil {
		return errors.Join(err, r.destroy(ctx))
	}
	return r.phase("resumed", &r.res.ResumeMS, func() error { return r.resumed(ctx) })
}

// build creates the tree and lets it run.
func (r *flow) build(ctx context.Context) error {
	if err := r.phase("skeleton", &r.res.SkeletonMS, func() error { return r.spawn(ctx, r.plan) }); err != nil {
		return err
	}
	if err := r.rebuild(ctx); err != nil {
		return err
	}
	return r.phase(PhaseResume, &r.res.ResumeMS, func() error {
		if err := r.closeService(ctx); err != nil {
			return err
		}
		return r.resume(ctx)
	})
}

// phase runs and times a phase.
func (r *flow) phase(name string, ms *float64, fn func() error) error {
	r.cfg.Log.Info("phase", "name", name)
	if r.cfg.Progress != nil {
		r.cfg.Progress(name, 0, 0)
	}
	start := time.Now()
	err := fn()
	*ms += ui.MS(time.Since(start))
	return err
}

// detached is a context for what must happen even though ctx has ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
}

func (r *flow) hostProcess(id sdk.TaskID) *imagepb.HostProcess {
	for _, p := range r.host.Tree.Processes {
		if p.Id == uint32(id) {
			return p
		}
	}
	return nil
}

func (r *flow) note(lines []failure.Line) {
	for _, l := range lines {
		if l.Level == sdk.LevelNote {
			r.res.Notes = append(r.res.Notes, l.String())
		}
	}
}
