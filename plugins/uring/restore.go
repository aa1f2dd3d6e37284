package uring

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uring/uringpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// ringImage is a ring as the records describe it.
type ringImage struct {
	msg    *uringpb.Ring
	memory []sdk.Record
}

// readRing reads and checks the records of an object.
func readRing(records sdk.Records, object uint64) (*ringImage, error) {
	r := &ringImage{}
	for rec, err := range records.Object(object) {
		if err != nil {
			return nil, err
		}
		if rec.Kind == kindMemory {
			r.memory = append(r.memory, rec)
			continue
		}
		r.msg = &uringpb.Ring{}
		if err := rec.Decode(r.msg); err != nil {
			return nil, err
		}
	}
	m := r.msg
	if m == nil {
		return nil, &sdk.CorruptError{What: "record", Kind: kindRing, Object: object, Err: errors.New("is missing")}
	}
	power := func(n uint32) bool { return n != 0 && n&(n-1) == 0 && n <= 1<<16 }
	if !power(m.GetEntries()) || !power(m.GetCompletionEntries()) || m.GetTaken() > m.GetSubmitted() ||
		m.GetSubmitted()-m.GetTaken() > m.GetCompletionEntries() || m.GetSubmitted() > maxRequests {
		return nil, &sdk.CorruptError{What: "record", Kind: kindRing, Object: object, Err: errors.New("counters that do not fit each other")}
	}
	return r, nil
}

// CheckImage implements [sdk.ImageChecker].
func (*plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	var report openfile.Report
	for i := range req.Resources {
		r := &req.Resources[i]
		ring, err := readRing(req.Records, r.Object)
		if err != nil {
			return nil, err
		}
		fd, p, err := setup(ring.msg.GetEntries(), ring.msg.GetCompletionEntries(), ring.msg.GetNoArray())
		if err != nil {
			report.Block(r, err.Error(), "see kernel.io_uring_disabled in sysctl(8)")
			continue
		}
		unix.Close(fd)
		if p.ringsBytes() != int(ring.msg.GetRingsBytes()) || p.entriesBytes() != int(ring.msg.GetEntriesBytes()) {
			report.Block(r, "io_uring: this kernel has another layout of its memory", "restore on the kernel of the checkpoint")
		}
	}
	return report.Findings(), nil
}

// RestoreObjects implements [sdk.ObjectRestorer].
func (p *plugin) RestoreObjects(_ context.Context, req *sdk.RestoreRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = map[uint64]int{}
	for _, r := range req.Resources {
		fd, err := restoreRing(req.Records, r.Object)
		if err != nil {
			return fmt.Errorf("restore object %d: io_uring: %w", r.Object, err)
		}
		p.made[r.Object] = fd
		if err := req.Provide(r.Object, fd); err != nil {
			return err
		}
	}
	return nil
}

func restoreRing(records sdk.Records, object uint64) (fd int, err error) {
	ring, err := readRing(records, object)
	if err != nil {
		return -1, err
	}
	fd, params, err := setup(ring.msg.GetEntries(), ring.msg.GetCompletionEntries(), ring.msg.GetNoArray())
	if err != nil {
		return -1, err
	}
	err = ring.fill(records, fd, params)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// fill brings a new ring to where the old one was.
func (r *ringImage) fill(records sdk.Records, fd int, p *params) (err error) {
	m, err := mapMemory(fd, p, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if len(m.rings) != int(r.msg.GetRingsBytes()) || len(m.entries) != int(r.msg.GetEntriesBytes()) {
		return fmt.Errorf("memory of %d and %d bytes, was %d and %d: %w", len(m.rings), len(m.entries), r.msg.GetRingsBytes(), r.msg.GetEntriesBytes(), sdk.ErrChanged)
	}
	if err := m.advance(fd, r.msg.GetSubmitted(), r.msg.GetTaken()); err != nil {
		return err
	}
	rest := r.memory
	for _, part := range [][]byte{m.rings, m.entries} {
		for len(part) > 0 {
			n := min(len(part), pieceSize)
			if len(rest) == 0 || rest[0].BulkLen != int64(n) {
				return fmt.Errorf("its memory: %w", sdk.ErrCorrupt)
			}
			if err := records.ReadBulk(rest[0], part[:n], 0); err != nil {
				return err
			}
			part, rest = part[n:], rest[1:]
		}
	}
	for _, c := range []struct{ at, want uint32 }{
		{m.sq.head, r.msg.GetSubmitted()}, {m.sq.tail, r.msg.GetSubmitted()}, {m.cq.tail, r.msg.GetSubmitted()}, {m.cq.head, r.msg.GetTaken()},
	} {
		if got := atomic.LoadUint32(m.word(c.at)); got != c.want {
			return fmt.Errorf("its memory counts %d requests, not %d: %w", got, c.want, sdk.ErrCorrupt)
		}
	}
	return nil
}
