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
	for _, part := range []struct {
		offset int64
		size   uint32
	}{{offSQRing, ring.GetRingsBytes()}, {offSQEs, ring.GetEntriesBytes()}} {
		b, err := unix.Mmap(fd, part.offset, int(part.size), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map: %w", err)
		}
		err = emit(ctx, out, r.Object, b)
		if err := errors.Join(err, unix.Munmap(b)); err != nil {
			return err
		}
	}
	return nil
}

// Thawed implements [sdk.Thawer]: it makes sure that no group of buffers has come
// between the look at the running tree and the freeze.
func (p *plugin) Thawed(context.Context, *sdk.DumpRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.forget()
	for _, fd := range p.dumped {
		if err := refuseGroups(fd); err != nil {
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
