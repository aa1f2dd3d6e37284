package dispatch

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

// Round is the argument of a phase.
type Round = wire.Round

// openTime bounds the opening of a session.
const openTime = 15 * time.Second

// deathTime is how long the end of a process may take to be noticed after its
// connection ended.
const deathTime = 500 * time.Millisecond

// deadlineSlack is how much earlier than the host a plugin may see a deadline.
const deadlineSlack = 100 * time.Millisecond

// deadlines of the phases that are not given in Options. Phases that move
// memory take as long as it takes: what they do is bounded by --timeout.
var deadlines = map[wire.Phase]time.Duration{
	wire.PhaseQuiesce:        10 * time.Second,
	wire.PhaseDump:           10 * time.Minute,
	wire.PhaseThawed:         10 * time.Minute,
	wire.PhaseRestoreObjects: 5 * time.Minute,
	wire.PhaseRestoreMemory:  10 * time.Minute,
	wire.PhaseAbort:          5 * time.Second,
}

// DefaultDeadline is how long a phase may take if nothing else is said.
func DefaultDeadline(p wire.Phase) time.Duration {
	if d, ok := deadlines[p]; ok {
		return d
	}
	return time.Minute
}

func (p *Plugin) deadline(phase wire.Phase) time.Duration {
	if p.binary.Debug {
		return debugTime
	}
	if d, ok := p.deadlines[phase]; ok {
		return d
	}
	return DefaultDeadline(phase)
}

// Run executes a phase. A plugin that does not implement it has done it.
func (p *Plugin) Run(ctx context.Context, phase wire.Phase, r Round) (wire.Result, error) {
	if !p.Has(phase) {
		return wire.Result{}, nil
	}
	limit := p.deadline(phase)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &overdueError{limit})
	defer cancel()
	var res wire.Result
	start := time.Now()
	err := p.call(ctx, func(ctx context.Context) (err error) {
		res, err = p.wire.Run(ctx, phase, r)
		return err
	})
	if err != nil {
		return res, &Error{Plugin: p.Name(), Doing: phase.String(), Err: p.because(ctx, err)}
	}
	p.log.Debug("phase done", "phase", phase.String(), "took", time.Since(start))
	return res, nil
}

// call makes a call that ends, at the latest, when the process does.
func (p *Plugin) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-p.runner.process().done:
			cancel()
		case <-ended:
		}
	}()
	return f(ctx)
}

// because finds the first cause of a failed call: why the host killed the
// plugin, why records could not be written, that the process ended, that a
// deadline passed; else what the plugin said.
func (p *Plugin) because(ctx context.Context, err error) error {
	p.mu.Lock()
	broken := p.broken
	p.mu.Unlock()
	if broken != nil {
		return broken
	}
	if errors.Is(err, sdk.ErrTimeout) {
		awaitDeadline(ctx)
	}
	if ctx.Err() != nil {
		cause := context.Cause(ctx)
		var overdue *overdueError
		if errors.As(cause, &overdue) {
			p.mu.Lock()
			p.hung = true
			p.mu.Unlock()
		}
		return cause
	}
	lost := status.Code(err) == codes.Unavailable || errors.Is(err, context.Canceled)
	wait := time.Duration(0)
	if lost {
		wait = deathTime
	}
	if died := p.died(wait); died != nil && lost {
		return died
	}
	if errors.Is(err, sdk.ErrAborted) {
		if cerr := p.consumer.Err(); cerr != nil {
			return cerr
		}
	}
	return err
}

// awaitDeadline waits for a deadline that is due: the plugin's clock may have
// been a moment earlier.
func awaitDeadline(ctx context.Context) {
	if at, ok := ctx.Deadline(); ok && time.Until(at) < deadlineSlack {
		<-ctx.Done()
	}
}

// Quiesce has the plugin bring programs to rest.
func (p *Plugin) Quiesce(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseQuiesce, r)
	return err
}

// Check reports what keeps the resources from being saved, and what open file
// descriptions they hold.
func (p *Plugin) Check(ctx context.Context, r Round) ([]sdk.Finding, []sdk.HeldFile, error) {
	res, err := p.Run(ctx, wire.PhaseCheck, r)
	return res.Findings, res.Held, err
}

// Prepare has the plugin do what need not be done while the tree stands still.
func (p *Plugin) Prepare(ctx context.Context, r Round) (sdk.PrepareResponse, error) {
	res, err := p.Run(ctx, wire.PhasePrepare, r)
	return res.Estimate, err
}

// Dump has the plugin emit its records. When it returns they are accepted.
func (p *Plugin) Dump(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseDump, r)
	return err
}

// Thawed tells the plugin that the tree runs again.
func (p *Plugin) Thawed(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseThawed, r)
	return err
}

// Ended tells the plugin that the tree has been ended.
func (p *Plugin) Ended(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseEnded, r)
	return err
}

// Abort tells the plugin that the checkpoint or restore failed.
func (p *Plugin) Abort(ctx context.Context) error {
	_, err := p.Run(ctx, wire.PhaseAbort, Round{})
	return err
}

// CheckImage reports what keeps the records from being rebuilt here.
func (p *Plugin) CheckImage(ctx context.Context, r Round) ([]sdk.Finding, error) {
	res, err := p.Run(ctx, wire.PhaseCheckImage, r)
	return res.Findings, err
}

// RestoreNamespaces has the plugin put the tasks into their namespaces.
func (p *Plugin) RestoreNamespaces(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseRestoreNamespaces, r)
	return err
}

// RestoreObjects has the plugin open its objects. The descriptors are open in
// the plugin's process ([Plugin.PID]) until the session is closed.
func (p *Plugin) RestoreObjects(ctx context.Context, r Round) ([]wire.Provided, error) {
	res, err := p.Run(ctx, wire.PhaseRestoreObjects, r)
	return res.Provided, err
}

// RestoreMemory has the plugin build the address spaces.
func (p *Plugin) RestoreMemory(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseRestoreMemory, r)
	return err
}

// LinkFiles has the plugin complete what refers to files by number.
func (p *Plugin) LinkFiles(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseLinkFiles, r)
	return err
}

// RestoreTasks has the plugin set attributes of tasks.
func (p *Plugin) RestoreTasks(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseRestoreTasks, r)
	return err
}

// Seal has the plugin set what takes rights away.
func (p *Plugin) Seal(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseSeal, r)
	return err
}

// Resumed tells the plugin that the restored tree runs.
func (p *Plugin) Resumed(ctx context.Context, r Round) error {
	_, err := p.Run(ctx, wire.PhaseResumed, r)
	return err
}
