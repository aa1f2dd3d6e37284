package files

import (
	"context"
	"fmt"
	"slices"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// Dump implements [sdk.Dumper].
func (p *plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	s, err := p.takeSurvey(ctx, req.Session)
	if err != nil {
		return err
	}
	defer s.close()
	if err := p.dumpRemaps(ctx, s); err != nil {
		return err
	}
	if err := s.dumpGhosts(ctx, req.Records); err != nil {
		return err
	}
	for _, pi := range s.pipes {
		if err := s.dumpPipe(ctx, req.Records, pi); err != nil {
			return err
		}
	}
	if err := s.dumpTerminals(ctx, req.Records); err != nil {
		return err
	}
	if err := s.digestFiles(ctx); err != nil {
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
	}
	return nil
}

// takeSurvey returns what the check of the frozen tree found, or looks now.
func (p *plugin) takeSurvey(ctx context.Context, sess *sdk.Session) (*survey, error) {
	p.mu.Lock()
	s := p.frozen
	known := p.known
	p.frozen = nil
	p.mu.Unlock()
	if s != nil && s.isOf(sess) {
		return s, nil
	}
	if s != nil {
		s.close()
	}
	return newSurvey(ctx, sess, known, true)
}

// isOf tells whether the survey is of what a session is about. Only a test has
// several sessions in one process.
func (s *survey) isOf(sess *sdk.Session) bool {
	return slices.EqualFunc(s.items, sess.Resources, func(it item, r sdk.Resource) bool {
		return it.res.Object == r.Object && it.file().Link == r.File.Link && it.file().Offset == r.File.Offset
	})
}

// Abort implements [sdk.Aborter].
func (p *plugin) Abort(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		p.frozen.close()
	}
	p.frozen, p.known = nil, nil
	return p.traces.remove()
}
