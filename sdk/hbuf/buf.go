package hbuf

import (
	"context"
	"fmt"
	"sync"
)

// Buf is a reserved buffer. It belongs to the caller until Commit or Put, and
// must be used by one goroutine at a time.
type Buf struct {
	p    *Producer
	mem  []byte   // the payload, trimmed
	back *scratch // where mem is from, if it is not bulk
	bulk *place   // reserved memory, until it is the host's
	done bool
}

// scratch is private memory for small payloads. It is used again and again; a
// Buf never is, because the caller may still have it: so Bufs are made many at
// a time.
type scratch struct {
	mem  []byte
	bufs []Buf
}

const (
	scratchSize = 4096
	scratchBufs = 64
)

var scratchPool = sync.Pool{New: func() any { return &scratch{mem: make([]byte, scratchSize)} }}

// newSmall reserves private memory; the arena gets it at Commit.
func newSmall(p *Producer, size int) *Buf {
	back := scratchPool.Get().(*scratch)
	if cap(back.mem) < size {
		back.mem = make([]byte, size)
	}
	if len(back.bufs) == 0 {
		back.bufs = make([]Buf, scratchBufs)
	}
	b := &back.bufs[0]
	back.bufs = back.bufs[1:]
	b.p, b.mem, b.back = p, back.mem[:size:size], back
	return b
}

// Payload is the reserved memory. What it contains at first is undefined. It
// must not be touched after Commit or Put.
func (b *Buf) Payload() []byte { return b.mem }

// Trim gives back everything behind the first n bytes. It does nothing if the
// payload is not longer.
func (b *Buf) Trim(n int) {
	if n < 0 || n >= len(b.mem) || b.done {
		return
	}
	b.mem = b.mem[:n:n]
	if b.bulk != nil {
		*b.bulk = b.p.shrink(*b.bulk, n)
	}
}

// Commit hands the record over: it gets the next sequence number, and its
// memory belongs to the host. The buffer is used up, also by an error. Commit
// blocks while the arena has no room for the record. The error is [ErrClosed]
// if the session ended, [ErrState], [ErrTooLarge] if the whole arena is
// smaller than the record, or the cause of ctx.
func (b *Buf) Commit(ctx context.Context, kind uint32, version uint16, object uint64) error {
	if b.done {
		return fmt.Errorf("commit record of kind %d: %w", kind, ErrState)
	}
	defer b.Put()
	h := Header{Kind: kind, Version: version, Object: object, Length: uint64(len(b.mem))}
	if b.bulk == nil {
		h.CRC = Checksum(b.mem)
		return b.p.commit(ctx, &h, b.mem)
	}
	if len(b.mem) == 0 {
		return fmt.Errorf("commit bulk record of kind %d without payload: %w", kind, ErrState)
	}
	h.Flags = FlagBulk
	if err := b.p.commitBulk(ctx, &h, b); err != nil {
		return err
	}
	b.bulk = nil // the host's now
	return nil
}

// Put drops the buffer. It does nothing after Commit, so it may be deferred.
func (b *Buf) Put() {
	if b.done {
		return
	}
	b.done, b.mem = true, nil
	if b.back != nil {
		scratchPool.Put(b.back)
		b.back = nil
	}
	if b.bulk != nil {
		b.p.drop(*b.bulk)
	}
}
