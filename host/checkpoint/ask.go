package checkpoint

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/resource"
	"github.com/firn-cr/firn/sdk"
)

// ask has every plugin check what it owns. Open file descriptions that are found
// in something else than a descriptor of a task become resources, which their
// owners check in turn, and in which there may be more.
func (p *plan) ask(ctx context.Context, kind checkKind) ([]failure.Line, error) {
	found := map[string][]sdk.Finding{}
	todo := p.owners()
	for again := false; len(todo) > 0; again = true {
		held, err := p.askSome(ctx, todo, kind, again, found)
		if err == nil {
			todo, err = p.hold(ctx, held)
		}
		if err != nil {
			return nil, err
		}
	}
	var lines []failure.Line
	for _, name := range slices.Sorted(maps.Keys(found)) {
		for _, f := range found[name] {
			lines = append(lines, failure.Line{Plugin: name, Finding: f})
		}
	}
	return lines, nil
}

// askSome asks some plugins. What they find replaces what they have found before.
func (p *plan) askSome(ctx context.Context, some []*dispatch.Plugin, kind checkKind, again bool,
	found map[string][]sdk.Finding) (held []resource.Held, err error) {
	rounds := map[string]dispatch.Round{}
	for _, q := range some {
		delete(p.held, q.Name()) // it says so again
		r := p.round(q.Name(), kind == checkFrozen)
		r.Preview, r.Again = kind == checkPreview, again
		rounds[q.Name()] = r
	}
	var mu sync.Mutex
	err = p.plugins.Each(ctx, some, func(ctx context.Context, q *dispatch.Plugin) error {
		findings, files, err := q.Check(ctx, rounds[q.Name()])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		found[q.Name()] = findings
		for _, f := range files {
			held = append(held, resource.Held{Plugin: q.Name(), PID: q.PID(), HeldFile: f})
		}
		return nil
	})
	return held, err
}

// hold takes in what plugins hold. It returns the owners of what is new.
func (p *plan) hold(ctx context.Context, held []resource.Held) ([]*dispatch.Plugin, error) {
	added, err := p.set.Hold(held, p.tree, carried{p.pids, p.users})
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		p.held[h.Plugin] = append(p.held[h.Plugin], h.HeldFile)
	}
	if len(added) == 0 {
		return nil, nil
	}
	more, err := dispatch.Match(p.claims, added, p.rules...)
	if err != nil {
		return nil, err
	}
	p.assigned.Add(more)
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(p.owners(), func(q *dispatch.Plugin) bool { return !more.Has(q.Name()) }), nil
}
