package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

// Set is a number of running plugins.
type Set struct {
	log     hclog.Logger
	plugins []*Plugin // by level, then by name
	byName  map[string]*Plugin
}

// index orders the plugins of a set.
func (s *Set) index() error {
	s.byName = map[string]*Plugin{}
	for _, p := range s.plugins {
		if s.byName[p.Name()] != nil {
			return fmt.Errorf("plugin %s was started twice: %w", p.Name(), failure.ErrPlugin)
		}
		s.byName[p.Name()] = p
	}
	levels, err := Order(s.Descriptions())
	if err != nil {
		return err
	}
	s.plugins = s.plugins[:0]
	for _, names := range levels {
		for _, name := range names {
			s.plugins = append(s.plugins, s.byName[name])
		}
	}
	return nil
}

// Plugins returns the plugins, those that others wait for first.
func (s *Set) Plugins() []*Plugin { return slices.Clone(s.plugins) }

// Get returns a plugin by its name, or nil.
func (s *Set) Get(name string) *Plugin { return s.byName[name] }

// Descriptions returns the descriptions of all plugins.
func (s *Set) Descriptions() []sdk.Description {
	out := make([]sdk.Description, 0, len(s.plugins))
	for _, p := range s.plugins {
		out = append(out, p.Description())
	}
	return out
}

// Match gives every resource to a plugin of the set; see [Match].
func (s *Set) Match(resources []sdk.Resource) (Assignment, error) {
	return Match(s.Descriptions(), resources)
}

// Each calls f for every given plugin, at the same time as far as the plugins'
// order allows: a plugin is called when those that it runs after have
// returned. An error cancels the context of the others; those that were not
// called yet are not. All plugins of the set are called if plugins is nil.
func (s *Set) Each(ctx context.Context, plugins []*Plugin, f func(context.Context, *Plugin) error) error {
	if plugins == nil {
		plugins = s.plugins
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(map[string]chan struct{}, len(plugins))
	for _, p := range plugins {
		done[p.Name()] = make(chan struct{})
	}
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for _, p := range plugins {
		all.Add(1)
		go func() {
			defer all.Done()
			defer close(done[p.Name()])
			for _, after := range p.info.After {
				if ch, ok := done[after]; ok {
					<-ch
				}
			}
			if ctx.Err() != nil {
				return
			}
			if err := f(ctx, p); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if len(errs) == 0 || !errors.Is(err, errOther) {
					errs = append(errs, err)
				}
				cancel(errOther)
			}
		}()
	}
	all.Wait()
	if len(errs) == 0 && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

// errOther is why a plugin's call is canceled when another's failed.
var errOther = errors.New("another plugin failed")

// Drain writes what all plugins emitted and was not written yet.
func (s *Set) Drain(ctx context.Context) error {
	return s.all(func(p *Plugin) error { return p.Drain(ctx) })
}

// hungAbortTime is how long a plugin that was late may take to clean up: only a
// part of it may hang, and that the time of the whole command is over does not
// mean that it hangs at all.
const hungAbortTime = time.Second

// Abort tells every plugin that has a session that all is over. Plugins that
// are dead are not asked; what becomes of those that were late before is not
// reported again.
func (s *Set) Abort(ctx context.Context) error {
	return s.all(func(p *Plugin) error {
		p.mu.Lock()
		ask, hung := p.session != nil && p.broken == nil, p.hung
		p.mu.Unlock()
		if !ask || p.died(0) != nil {
			return nil
		}
		if !hung {
			return p.Abort(ctx)
		}
		ctx, cancel := context.WithTimeout(ctx, hungAbortTime)
		defer cancel()
		if err := p.Abort(ctx); err != nil {
			p.log.Debug("abort of a plugin that was late", "error", err)
		}
		return nil
	})
}

// Close stops all plugins. It takes a few seconds at most.
func (s *Set) Close() error {
	return s.all(func(p *Plugin) error { return p.Close() })
}

// all calls f for every plugin at the same time, whatever their order.
func (s *Set) all(f func(*Plugin) error) error {
	errs := make([]error, len(s.plugins))
	var all sync.WaitGroup
	for i, p := range s.plugins {
		if p == nil {
			continue
		}
		all.Add(1)
		go func() {
			defer all.Done()
			errs[i] = f(p)
		}()
	}
	all.Wait()
	return errors.Join(errs...)
}
