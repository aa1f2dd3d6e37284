package dispatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/wire"
)

// SessionConfig is what a plugin gets for one checkpoint, restore or check.
type SessionConfig struct {
	// Host answers the plugin's calls. Its methods are called concurrently.
	Host sdk.Host
	// Sink takes the plugin's records. It may be given later, by
	// [Plugin.SetSink]; records that come earlier are an error.
	Sink hbuf.Sink
	// Options are the flags of the command line.
	Options map[string]string
	// Image is the image of a restore; nil in a checkpoint or check. It stays
	// the caller's.
	Image *os.File
	// Blocks are the plugin's records in the image.
	Blocks []wire.Block
}

// session is the host's side of a session.
type session struct {
	cancel context.CancelFunc // of the loops that serve it
	opened bool               // the plugin knows of it; guarded by Plugin.mu
	loops  sync.WaitGroup
}

// Open opens a session. A plugin has one session in its life.
func (p *Plugin) Open(ctx context.Context, cfg SessionConfig) error {
	if err := p.open(ctx, cfg); err != nil {
		return &Error{Plugin: p.Name(), Doing: "open session", Err: p.because(ctx, err)}
	}
	return nil
}

func (p *Plugin) open(ctx context.Context, cfg SessionConfig) error {
	limit := openTime
	if p.binary.Debug {
		limit = debugTime
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w after %v", sdk.ErrTimeout, limit))
	defer cancel()
	if cfg.Sink != nil {
		p.SetSink(cfg.Sink)
	}
	if cfg.Image != nil {
		if err := pass(p.runner.process().passing, wire.PassImage, cfg.Image); err != nil {
			return fmt.Errorf("pass the image: %w", err)
		}
	}
	serve, stop := context.WithCancel(context.Background())
	s := &session{cancel: stop}
	p.mu.Lock()
	if p.session != nil || p.stopped {
		p.mu.Unlock()
		stop()
		return errors.New("the plugin had its session already")
	}
	p.session = s
	p.mu.Unlock()
	err := p.call(ctx, func(ctx context.Context) error {
		return p.wire.Open(ctx, wire.OpenConfig{
			ArenaSize: p.consumer.ArenaSize(), SegmentSize: p.consumer.SegmentSize(), Deferred: p.deferred,
			Restore: cfg.Image != nil, Blocks: cfg.Blocks,
			Options: cfg.Options, LogLevel: p.log.GetLevel(),
		})
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return sdk.ErrAborted
	}
	s.opened = true
	s.loops.Add(2)
	go func() {
		defer s.loops.Done()
		p.watch(serve, "records", p.consumer.Serve(serve))
	}()
	go func() {
		defer s.loops.Done()
		err := p.wire.ServeHost(serve, wire.HostConfig{
			Host: cfg.Host, Submit: p.accept, Written: p.consumer.Drain,
		})
		p.watch(serve, "services", err)
	}()
	return nil
}

// accept takes records that came by message.
func (p *Plugin) accept(segment []byte) error {
	err := p.consumer.Accept(segment)
	if errors.Is(err, hbuf.ErrProtocol) {
		p.kill(err)
	}
	return err
}

// watch handles the end of a loop that serves a plugin. A plugin that breaks
// the rules is killed; what else goes wrong shows in the phase that runs.
func (p *Plugin) watch(ctx context.Context, what string, err error) {
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, hbuf.ErrProtocol):
		p.kill(err)
	default:
		p.log.Debug("plugin is not served any more", "what", what, "error", err)
	}
}

// SetSink sets where records go from now on.
func (p *Plugin) SetSink(s hbuf.Sink) { p.sink.to.Store(&s) }

// SetMode sets when records are written.
func (p *Plugin) SetMode(m hbuf.Mode) { p.consumer.SetMode(m) }

// Drain writes what the plugin emitted and was not written yet. It does not
// need the plugin to be alive.
func (p *Plugin) Drain(ctx context.Context) error {
	if err := p.consumer.Drain(ctx); err != nil {
		return &Error{Plugin: p.Name(), Doing: "write records", Err: err}
	}
	return nil
}

// CloseSession ends the session; the plugin releases what it held for it.
// Without one it does nothing.
func (p *Plugin) CloseSession(ctx context.Context) error {
	p.mu.Lock()
	open := p.session != nil && p.session.opened
	p.mu.Unlock()
	if !open {
		return nil
	}
	err := p.call(ctx, func(ctx context.Context) error { return p.wire.Close(ctx) })
	err = errors.Join(err, p.endSession())
	if err != nil {
		return &Error{Plugin: p.Name(), Doing: "close session", Err: p.because(ctx, err)}
	}
	return nil
}

// endSession ends the loops of the session. They may be in a call of the host,
// which is told to stop by its context.
func (p *Plugin) endSession() error {
	p.mu.Lock()
	s := p.session
	if s != nil {
		s.opened = false
	}
	p.mu.Unlock()
	if s == nil {
		return nil
	}
	s.cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.loops.Wait()
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(closeTime):
		return errors.New("a call of the plugin does not end in the host")
	}
}
