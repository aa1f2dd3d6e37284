package files

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// restore is one restore of the files of a tree.
type restore struct {
	req *sdk.RestoreRequest
	mu  sync.Mutex
	// made are the descriptors of this process by object. They stay open until
	// the session ends.
	made   map[uint64]int
	ghosts map[uint64]*ghostSet
	traces *traces
	// carried are the files that wait for their names.
	carried  []*carriedFile
	policies policies
	// inherited are descriptors of the restorer, by object.
	inherited map[uint64]int
}

// provide hands an object to the host.
func (r *restore) provide(object uint64, fd int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made[object] = fd
	return r.req.Provide(object, fd)
}

// RestoreObjects implements [sdk.ObjectRestorer].
func (p *plugin) RestoreObjects(ctx context.Context, req *sdk.RestoreRequest) error {
	im, err := readImage(req.Records)
	if err != nil {
		return err
	}
	r := &restore{req: req, made: map[uint64]int{}, ghosts: im.ghosts, traces: &p.traces}
	if r.policies, err = readPolicies(req.Session); err != nil {
		return err
	}
	if r.inherited, err = inherited(req.Session); err != nil {
		return err
	}
	p.traces.begin()
	defer p.keep(r)
	defer r.closeGhosts()
	for _, object := range im.ghostOrder {
		if err := r.makeGhost(ctx, object, im.ghosts[object]); err != nil {
			return fmt.Errorf("restore the content of %s: %w", im.ghosts[object].msg.GetPath(), err)
		}
	}
	for _, s := range im.pipes {
		if err := r.pipe(s); err != nil {
			return err
		}
	}
	for _, open := range []func() error{
		func() error { return r.restoreTerminals(ctx, &im.terminals) },
		func() error { return each(ctx, r, im.devices, openDevice) },
		func() error { return each(ctx, r, im.eventfds, makeEventfd) },
		func() error { return each(ctx, r, im.signalfds, makeSignalfd) },
		func() error { return each(ctx, r, im.timerfds, makeTimerfd) },
		func() error { return each(ctx, r, im.epolls, makeEpoll) },
		func() error { return each(ctx, r, im.inotifies, makeInotify) },
		func() error { return each(ctx, r, im.fanotifies, makeFanotify) },
		func() error { return each(ctx, r, im.pidfds, r.makePidfd) },
		func() error { return each(ctx, r, im.namespaces, r.openNamespace) },
		func() error { return each(ctx, r, im.externals, openExternal) },
		func() error { return each(ctx, r, im.named, r.openNamed) },
	} {
		if err := open(); err != nil {
			return err
		}
	}
	return nil
}

// keep remembers the descriptors and files for later phases.
func (p *plugin) keep(r *restore) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made, p.carried = r.made, r.carried
}

// closeGhosts closes the descriptors through which ghosts were opened.
func (r *restore) closeGhosts() {
	for _, g := range r.ghosts {
		if g.fd >= 0 {
			unix.Close(g.fd)
			g.fd = -1
		}
	}
}

// each makes the objects of one kind, on all processors.
func each[M message](ctx context.Context, r *restore, recs []record[M], open func(M) (int, error)) error {
	return openfile.Each(ctx, len(recs), func(i int) (err error) {
		var fd int
		if n, ok := r.inherited[recs[i].object]; ok {
			fd, err = openInherited(n, recs[i].msg.GetDescription().GetFlags())
		} else {
			fd, err = open(recs[i].msg)
		}
		if err != nil {
			return fmt.Errorf("restore object %d: %w", recs[i].object, err)
		}
		return r.provide(recs[i].object, fd)
	})
}

func (r *restore) pipe(s *pipeSet) error {
	if len(s.ends) > 0 {
		if n, ok := r.inherited[s.ends[0].object]; ok {
			return r.inheritPipe(s, n)
		}
	}
	build, name := restorePipe, fmt.Sprintf("pipe %d", s.pipe.GetId())
	if len(s.pipe.GetPath()) > 0 {
		build, name = restoreFIFO, string(s.pipe.GetPath())
	}
	fds, err := build(s)
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	return r.provideAll(fds)
}

// inheritPipe takes a pipe of the restorer. What was in the old one is lost, as
// it is for everybody who has it.
func (r *restore) inheritPipe(s *pipeSet, n int) error {
	fds, err := openEnds(s.ends, func(e pipeEnd) (int, error) { return openInherited(n, e.flags) })
	if err != nil {
		return fmt.Errorf("restore pipe %d: %w", s.pipe.GetId(), err)
	}
	return r.provideAll(fds)
}

func (r *restore) provideAll(fds map[uint64]int) error {
	for object, fd := range fds {
		if err := r.provide(object, fd); err != nil {
			return err
		}
	}
	return nil
}
