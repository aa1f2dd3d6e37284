package sockets

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// Prepare implements [sdk.Preparer]: it starts what a frozen tree would have to
// wait for.
func (p *plugin) Prepare(_ context.Context, req *sdk.PrepareRequest) (*sdk.PrepareResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reader != nil || !req.Enabled(tcpEstablished) {
		return &sdk.PrepareResponse{}, nil
	}
	var err error
	p.reader, err = newReader()
	return &sdk.PrepareResponse{}, err
}

// Check implements [sdk.Checker].
func (p *plugin) Check(ctx context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	before, err := p.forget()
	if err != nil {
		return nil, err
	}
	if !req.Again {
		before = nil
	}
	s, err := p.newSurvey(ctx, req.Session, req.Frozen, before)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = nil
	if req.Frozen {
		p.frozen = s
	}
	return s.report.Findings(), nil
}

// Dump implements [sdk.Dumper].
func (p *plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	s, err := p.takeSurvey(ctx, req.Session)
	if err != nil {
		return err
	}
	for i := range s.items {
		it := &s.items[i]
		if it.msg == nil {
			return fmt.Errorf("dump %s of task %d: %s: %w", openfile.Subject(it.res), it.res.Task, it.file().Link, sdk.ErrUnsupported)
		}
		if err := req.Records.Emit(ctx, it.kind, it.res.Object, it.msg); err != nil {
			return err
		}
		for _, m := range it.datagrams {
			if err := req.Records.Emit(ctx, kindDatagram, it.res.Object, m); err != nil {
				return err
			}
		}
		for _, m := range it.streams {
			if err := req.Records.Emit(ctx, kindStream, it.res.Object, m); err != nil {
				return err
			}
		}
		if err := it.name(req.Held); err != nil {
			return fmt.Errorf("dump %s of task %d: %w", openfile.Subject(it.res), it.res.Task, err)
		}
		for _, m := range it.queue {
			if err := req.Records.Emit(ctx, kindMessage, it.res.Object, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeSurvey returns what the check of the frozen tree found, or looks now.
func (p *plugin) takeSurvey(ctx context.Context, sess *sdk.Session) (*survey, error) {
	p.mu.Lock()
	s := p.frozen
	p.frozen = nil
	p.mu.Unlock()
	// Only a test has several sessions in one process.
	if s != nil && slices.EqualFunc(s.items, sess.Resources, func(it item, r sdk.Resource) bool {
		return it.res.Object == r.Object && it.file().Link == r.File.Link
	}) {
		return s, nil
	}
	return p.newSurvey(ctx, sess, true, nil)
}

// forget gives back what an earlier look at the frozen tree holds, and returns what
// it was.
func (p *plugin) forget() (*survey, error) {
	p.mu.Lock()
	before := p.frozen
	p.frozen = nil
	p.mu.Unlock()
	if before == nil {
		return nil, nil
	}
	return before, p.letGo()
}

// Thawed implements [sdk.Thawer]: a tree that runs has its connections back.
func (p *plugin) Thawed(_ context.Context, req *sdk.DumpRequest) error {
	if req.Frozen {
		return nil
	}
	return p.letGo()
}

// Ended implements [sdk.Ender].
func (p *plugin) Ended(context.Context, *sdk.EndRequest) error { return p.giveUp() }

// Abort implements [sdk.Aborter].
func (p *plugin) Abort(context.Context) error {
	p.mu.Lock()
	p.frozen = nil
	p.mu.Unlock()
	return errors.Join(p.lockAgain(), p.letGo())
}
