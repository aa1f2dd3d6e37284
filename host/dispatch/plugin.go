package dispatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/wire"
)

const (
	// closeTime bounds the end of a session when a plugin is stopped.
	closeTime = 3 * time.Second
	// stopGrace is how long a plugin may take to end by itself.
	stopGrace = 500 * time.Millisecond
)

// Plugin is a running plugin. Its methods may be called concurrently.
type Plugin struct {
	binary    Binary
	file      fileIdentity // of what is executed
	log       hclog.Logger
	info      *wire.Info
	client    *plugin.Client
	runner    *pluginRunner
	wire      *wire.Client
	consumer  *hbuf.Consumer
	populated chan struct{} // closed when the arena has its memory; nil if it needs none
	deferred  bool          // the mode at the start
	sink      *lateSink
	deadlines map[wire.Phase]time.Duration
	warm      *Warm          // where the process goes when it is closed; nil if it ends
	real      *hbuf.Consumer // during a rehearsal: what takes the records later

	mu      sync.Mutex
	session *session
	broken  error // why the plugin was killed
	hung    bool  // a phase did not end in time
	stopped bool
}

// Name is the plugin's name.
func (p *Plugin) Name() string { return p.info.Name }

// Version is the plugin's own version.
func (p *Plugin) Version() string { return p.info.Version }

// Path is the file that was executed.
func (p *Plugin) Path() string { return p.binary.Path }

// PID is the process.
func (p *Plugin) PID() int {
	if proc := p.runner.process(); proc != nil {
		return proc.proc.Pid
	}
	return 0
}

// Description is what the plugin tells about itself. Its record types have no
// messages; see Info.
func (p *Plugin) Description() sdk.Description { return p.info.Description }

// Info is everything that the plugin told about itself.
func (p *Plugin) Info() *wire.Info { return p.info }

// Has tells whether the plugin implements a phase.
func (p *Plugin) Has(phase wire.Phase) bool { return p.info.Has(phase) }

// Manifest is the plugin's entry in an image.
func (p *Plugin) Manifest() *imagepb.Plugin {
	m := &imagepb.Plugin{
		Name: p.info.Name, Version: p.info.Version, ApiVersion: p.info.APIVersion,
		Descriptors: p.info.Descriptors, Optional: len(p.info.Records) > 0,
	}
	for _, r := range p.info.Records {
		m.Records = append(m.Records, &imagepb.RecordType{
			Kind: r.Kind, Version: uint32(r.Version), Message: p.info.Messages[r.Kind], Name: r.Name, Optional: r.Optional,
		})
		m.Optional = m.Optional && r.Optional
	}
	return m
}

// Stats counts the records of the plugin.
func (p *Plugin) Stats() hbuf.Stats { return p.consumer.Stats() }

// died returns how the process ended, if it does within d.
func (p *Plugin) died(d time.Duration) error {
	proc := p.runner.process()
	if proc == nil || !proc.ended(d) {
		return nil
	}
	crash, last := p.runner.out.headline()
	if crash == "" && proc.state.ExitCode() > 0 {
		crash = last // it ended by itself: the last line may say why
	}
	return &diedError{state: proc.state.String(), last: crash}
}

// kill ends a plugin that broke a rule.
func (p *Plugin) kill(why error) {
	p.mu.Lock()
	if p.broken == nil {
		p.broken = why
	}
	p.mu.Unlock()
	p.log.Error("plugin is killed", "error", why)
	_ = p.runner.Kill(context.Background())
}

// Close ends the session, if there is one, and the process, unless the plugin is
// kept warm. It is bounded: a plugin that does not end is killed. It may be
// called more than once.
func (p *Plugin) Close() error {
	if p.warm != nil {
		return p.warm.giveBack(p)
	}
	return p.end()
}

// end ends the session and the process.
func (p *Plugin) end() error {
	p.mu.Lock()
	stopped := p.stopped
	p.stopped = true
	p.mu.Unlock()
	if stopped {
		return nil
	}
	if err := errors.Join(p.endWork(), p.stop()); err != nil {
		return &Error{Plugin: p.binary.Name, Doing: "stop", Err: err}
	}
	return nil
}

// endWork ends the session, in time, if the plugin can be asked.
func (p *Plugin) endWork() error {
	p.mu.Lock()
	healthy := p.broken == nil && !p.hung
	p.mu.Unlock()
	if !healthy || p.died(0) != nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), closeTime, fmt.Errorf("%w after %v", sdk.ErrTimeout, closeTime))
	defer cancel()
	err := p.CloseSession(ctx)
	if errors.Is(err, ErrDied) {
		p.log.Warn("plugin ended before its session", "error", err)
		return nil // nothing was asked of it any more
	}
	return err
}

// stop ends the process and releases everything.
func (p *Plugin) stop() error {
	var err error
	p.mu.Lock()
	grace := stopGrace
	if p.broken != nil || p.hung {
		grace = 0
	}
	p.mu.Unlock()
	if proc := p.runner.process(); proc != nil {
		err = proc.stop(grace)
	}
	err = errors.Join(err, p.endSession())
	p.runner.out.close()
	// The process is gone and nobody reads: go-plugin has nothing to wait for.
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		p.client.Kill()
	}()
	select {
	case <-killed:
	case <-time.After(closeTime):
		err = errors.Join(err, fmt.Errorf("go-plugin does not let go of process %d", p.PID()))
	}
	if p.populated != nil {
		<-p.populated
	}
	return errors.Join(err, p.consumer.Close())
}
