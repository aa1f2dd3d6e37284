package uring

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uring/uringpb"
	"github.com/firn-cr/firn/sdk"
)

// pieceSize is the largest piece of memory in one record.
const pieceSize = 1 << 20

// Dump implements [sdk.Dumper].
func (p *plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	s := newSurvey(req.Session, true)
	defer s.access.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range s.files {
		ring, err := p.frozen[r.Object], error(nil)
		if ring == nil {
			ring, err = s.examine(r)
		}
		if err == nil {
			err = p.dump(ctx, s, req.Records, r, ring)
		}
		if err != nil {
			return fmt.Errorf("dump %s of task %d: %w", r.File.Subject(), r.Task, err)
		}
	}
	return nil
}

func (p *plugin) dump(ctx context.Context, s *survey, out sdk.Emitter, r *sdk.Resource, ring *uringpb.Ring) error {
	if err := out.Emit(ctx, kindRing, r.Object, ring); err != nil {
		return err
	}
	fd, err := s.access.Dup(r)
	if err != nil {
		return err
	}
	p.dumped = append(p.dumped, fd)
	m, err := mapRing(fd, int(ring.GetRingsBytes()), int(ring.GetEntriesBytes()), unix.PROT_READ)
	if err != nil {
		return err
	}
	err = emit(ctx, out, r.Object, m.rings)
	if err == nil {
		err = emit(ctx, out, r.Object, m.entries)
	}
	return errors.Join(err, m.close())
}

// emit emits a part of a ring's memory.
func emit(ctx context.Context, out sdk.Emitter, object uint64, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), pieceSize)
		buf, err := out.Bulk(ctx, n)
		if err != nil {
			return err
		}
		copy(buf.Payload(), b[:n])
		buf.Trim(n)
		if err := buf.Commit(ctx, kindMemory, 1, object); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Thawed implements [sdk.Thawer]: it makes sure that no group of buffers has come
// between the look at the running tree and the freeze.
func (p *plugin) Thawed(context.Context, *sdk.DumpRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.forget()
	if len(p.dumped) == 0 {
		return nil
	}
	fresh, _, err := setup(1, 2, false)
	if err != nil {
		return err
	}
	defer unix.Close(fresh)
	for _, fd := range p.dumped {
		if err := refuseGroups(fd, fresh); err != nil {
			return fmt.Errorf("io_uring: %w", err)
		}
	}
	return nil
}

// Abort implements [sdk.Aborter].
func (p *plugin) Abort(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget()
	return nil
}

func (p *plugin) forget() {
	for _, fd := range p.dumped {
		unix.Close(fd)
	}
	p.frozen, p.dumped = nil, nil
}
