package dispatch

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/firn-cr/firn/sdk/hbuf"
)

// Warm has plugins that were started before anybody needed them. [Start] takes
// them from there as long as their files have not changed since. Closing a plugin
// that came from here ends its session; its process is ended by [Warm.Close].
type Warm struct {
	arena *ArenaOptions
	env   []string

	mu        sync.Mutex
	plugins   map[string]*Plugin // those that may be taken
	given     []*Plugin          // those that were taken and given back
	rehearsal bool
}

// NewWarm starts plugins and keeps them.
func NewWarm(ctx context.Context, bins []Binary, opt Options) (*Warm, error) {
	set, err := Start(ctx, bins, opt)
	if err != nil {
		return nil, err
	}
	w := &Warm{arena: opt.Arena, env: distinct(), plugins: map[string]*Plugin{}}
	for _, p := range set.plugins {
		p.warm = w
		w.plugins[p.Name()] = p
	}
	return w, nil
}

// Rehearse calls f, which uses plugins from here, in a session that has no arena,
// as usual; they can be taken once more afterwards. What was done once is done
// faster: the code is in memory, the heaps have grown.
func (w *Warm) Rehearse(f func() error) error {
	w.setRehearsal(true)
	defer w.setRehearsal(false)
	return f()
}

func (w *Warm) setRehearsal(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rehearsal = on
}

// take hands out a plugin that is what Start would start; nil if there is none.
func (w *Warm) take(b Binary, opt Options) *Plugin {
	if w == nil || opt.Arena != nil && (w.arena == nil || *opt.Arena != *w.arena) || len(opt.Env) > 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.plugins[b.Name]
	if p == nil || p.binary != b || p.died(0) != nil || !slices.Equal(w.env, distinct()) {
		return nil
	}
	if now, err := identify(b.Path); err != nil || now != p.file {
		return nil
	}
	if w.rehearsal {
		// The numbers of records begin anew with every session.
		c, err := hbuf.NewConsumer(hbuf.Config{Sink: p.sink, Log: p.log.Debug, NoArena: true})
		if err != nil {
			return nil
		}
		p.real, p.consumer = p.consumer, c
	}
	delete(w.plugins, b.Name)
	p.deadlines = opt.Deadlines
	return p
}

// giveBack ends the session of a plugin that was taken. One that is not well is
// ended at once.
func (w *Warm) giveBack(p *Plugin) error {
	err := p.endWork()
	p.mu.Lock()
	well := err == nil && p.broken == nil && !p.hung
	p.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !well || p.died(0) != nil:
		return errors.Join(err, p.end())
	case p.real != nil:
		p.mu.Lock()
		p.session = nil
		p.mu.Unlock()
		p.sink.to.Store(nil)
		err := p.consumer.Close()
		p.consumer, p.real = p.real, nil
		w.plugins[p.Name()] = p
		return err
	default:
		w.given = append(w.given, p)
	}
	return nil
}

// Close ends the processes of all plugins that are not in use.
func (w *Warm) Close() error {
	w.mu.Lock()
	set := &Set{plugins: w.given}
	for _, p := range w.plugins {
		set.plugins = append(set.plugins, p)
	}
	w.plugins, w.given = nil, nil
	w.mu.Unlock()
	return set.all(func(p *Plugin) error { return p.end() })
}

// distinct is what of the environment must be the same for a plugin to be taken:
// what only plugins and firn look at, and where files go. Which variables a
// plugin sees at all is in allowed.
func distinct() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch {
		case name == "FIRN_SERVE" || name == "FIRN_LOG":
		case name == "TMPDIR" || name == "XDG_RUNTIME_DIR" || strings.HasPrefix(name, "FIRN_"):
			env = append(env, v)
		}
	}
	slices.Sort(env)
	return env
}
