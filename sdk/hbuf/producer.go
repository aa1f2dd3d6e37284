package hbuf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// DefaultSegment is the size of a segment in bytes.
const DefaultSegment = 256 << 10

// place is memory that a carrier reserved: a run of segments of an arena, or
// private memory. The zero place is none.
type place struct {
	mem   []byte // all of it, whole segments
	first int
	n     int // segments
}

// carrier is where a producer's records go. All methods but wait are called
// with the producer's lock held and do not block.
type carrier interface {
	// reserve returns memory for n bytes, or false if there is none now.
	reserve(n int, bulk bool) (place, bool)
	// release takes memory back.
	release(at place)
	// split gives back the end of a place from byte n on.
	split(at place, n int) place
	// publish hands over the first n bytes of a packed segment, with the bulk
	// payloads that it refers to. The host need not look before some more are
	// published, or someone waits, unless it is urgent.
	publish(at place, n int, urgent bool) error
	// bulkRef is the reference to a bulk payload, or false if the payload has
	// to follow the header.
	bulkRef(at place) (ref uint64, ok bool)
	// state is what can end a wait; it changes when the host did something.
	state() error
	// eager is how many bytes of bulk payload wait for a packed segment to
	// become full before it is published as it is.
	eager() int
	// warm makes n bytes ready for use by this process.
	warm(n uint64)
	// limit is the largest size that reserve can ever satisfy.
	limit() int
	// reached tells whether the host has accepted (or written) everything
	// that was published.
	reached(written bool) bool
	// wait blocks until ready, which is called with mu held, returns true.
	wait(ctx context.Context, mu *sync.Mutex, want int, ready func() bool) error
	// wake makes everyone in wait look again.
	wake()
	// close frees everything. Nothing else is called afterwards.
	close() error
}

// Producer is the plugin's side of the record protocol. All methods are safe
// for concurrent use.
type Producer struct {
	mu      sync.Mutex
	c       carrier
	seq     uint64
	open    place // the packed segment that is being filled
	used    int   // bytes of it
	pending int   // bulk bytes that it refers to
	users   int   // bulk buffers held and goroutines waiting: they use the carrier
	closed  bool
	over    atomic.Bool   // closed, or the session is known to be over
	turn    chan struct{} // held by the one goroutine that waits for bulk memory
}

func newProducer(c carrier) *Producer {
	return &Producer{c: c, turn: make(chan struct{}, 1)}
}

// Attach returns a producer on an arena that the host made. The files are
// those of [Consumer.Files], which the caller may close afterwards; size and
// segmentSize are the host's [Consumer.ArenaSize] and [Consumer.SegmentSize].
func Attach(arena, submitEvt, completeEvt *os.File, size uint64, segmentSize uint32) (*Producer, error) {
	l, err := newLink(arena, submitEvt, completeEvt, size, segmentSize)
	if err != nil {
		return nil, fmt.Errorf("attach to arena: %w", err)
	}
	return newProducer(l), nil
}

// Warm makes the memory for n bytes of records ready, which the first use would
// do otherwise, at the cost of one fault per page. What the arena does not have
// is left out, and what the host does not grant is warm in vain.
func (p *Producer) Warm(n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.c.warm(n)
}

// Get reserves a buffer for a record of up to size bytes, at most [MaxRecord].
// It is private memory, so it never blocks and any number may be held at the
// same time: [Buf.Commit] waits for the host. The error is [ErrTooLarge],
// [ErrClosed] once a call has found that the session ended, or the cause of ctx.
func (p *Producer) Get(ctx context.Context, size int) (*Buf, error) {
	if size < 0 || size > MaxRecord {
		return nil, fmt.Errorf("reserve record of %d bytes: %w", size, ErrTooLarge)
	}
	if p.over.Load() {
		if err := p.alive(); err != nil {
			return nil, fmt.Errorf("reserve record: %w", err)
		}
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("reserve record: %w", context.Cause(ctx))
	}
	return newSmall(p, size), nil
}

// GetBulk reserves a page-aligned buffer of size bytes, 1 to [MaxBulk], in
// memory that the host writes from without a copy. It blocks while there is
// none. Several may be held at the same time, but whoever waits for more while
// holding all of the arena waits for ever: bound it by ctx.
func (p *Producer) GetBulk(ctx context.Context, size int) (*Buf, error) {
	if size <= 0 || size > MaxBulk || size > p.c.limit() {
		return nil, fmt.Errorf("reserve bulk of %d bytes: %w", size, ErrTooLarge)
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("reserve bulk of %d bytes: %w", size, context.Cause(ctx))
	}
	defer func() { <-p.turn }()
	var at place
	err := p.await(ctx, size, func() bool {
		var ok bool
		if at, ok = p.c.reserve(size, true); ok {
			p.users++
		}
		return ok
	})
	if err != nil {
		return nil, fmt.Errorf("reserve bulk of %d bytes: %w", size, err)
	}
	return &Buf{p: p, mem: at.mem[:size:size], bulk: &at}, nil
}

// Flush returns when the host has accepted everything that was committed
// before: it holds references to it, whatever becomes of the plugin.
func (p *Producer) Flush(ctx context.Context) error {
	if err := p.sync(ctx, false); err != nil {
		return fmt.Errorf("flush records: %w", err)
	}
	return nil
}

// Barrier returns when the host has written everything that was committed
// before. It makes a host that defers write it now, so it is expensive while
// the tree is frozen.
func (p *Producer) Barrier(ctx context.Context) error {
	if err := p.sync(ctx, true); err != nil {
		return fmt.Errorf("wait for records to be written: %w", err)
	}
	return nil
}

// Close hands over what was committed, without waiting for the host, and ends
// the producer. Buffers that are still held can only be dropped; the arena
// stays mapped until the last of them is.
func (p *Producer) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	err := p.handOver(true)
	p.closed = true
	p.over.Store(true)
	if p.users > 0 {
		p.c.wake()
		return err
	}
	return errors.Join(err, p.c.close())
}

// leave ends a use of the carrier; the last one after Close closes it. The
// lock is held.
func (p *Producer) leave() {
	if p.users--; p.users == 0 && p.closed {
		_ = p.c.close() // Close has returned already
	}
}

// alive returns why nothing can be reserved any more.
func (p *Producer) alive() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.check()
}

// check is alive with the lock held.
func (p *Producer) check() error {
	err := ErrClosed
	if !p.closed {
		err = p.c.state()
	}
	if err != nil {
		p.over.Store(true)
	}
	return err
}

// await blocks until try, which is called with the lock held, returns true.
// What was committed is handed over before it blocks: it may be what the host
// has to free.
func (p *Producer) await(ctx context.Context, want int, try func() bool) error {
	var failed error
	ready := func() bool {
		if failed = p.check(); failed != nil {
			return true
		}
		if try() {
			return true
		}
		failed = p.handOver(true)
		return failed != nil
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	p.mu.Lock()
	if err := p.check(); err != nil {
		p.mu.Unlock()
		return err
	}
	p.users++
	p.mu.Unlock()
	err := p.c.wait(ctx, &p.mu, want, ready)
	p.mu.Lock()
	p.leave()
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return failed
}

// sync waits for everything that is committed now.
func (p *Producer) sync(ctx context.Context, written bool) error {
	p.mu.Lock()
	err := p.check()
	if err == nil {
		err = p.handOver(true)
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.await(ctx, 0, func() bool { return p.c.reached(written) })
}

// handOver publishes the open segment if there is something in it. The lock is
// held.
func (p *Producer) handOver(urgent bool) error {
	if p.used == 0 {
		return nil
	}
	at, n := p.open, p.used
	p.open, p.used, p.pending = place{}, 0, 0
	return p.c.publish(at, n, urgent)
}

// room makes the open segment have n bytes left. The lock is held.
func (p *Producer) room(n int) (bool, error) {
	if p.used+n <= len(p.open.mem) {
		return true, nil
	}
	if err := p.handOver(false); err != nil {
		return false, err
	}
	if p.open.mem != nil && n > len(p.open.mem) {
		p.c.release(p.open)
		p.open = place{}
	}
	if p.open.mem == nil {
		at, ok := p.c.reserve(n, false)
		if !ok {
			return false, nil
		}
		p.open = at
	}
	return true, nil
}

// lockRoom returns with the lock held and n bytes left in the open segment.
func (p *Producer) lockRoom(ctx context.Context, n int) error {
	if n > p.c.limit() {
		return ErrTooLarge
	}
	for {
		p.mu.Lock()
		if err := p.check(); err != nil {
			p.mu.Unlock()
			return err
		}
		ok, err := p.room(n)
		if ok {
			return nil
		}
		p.mu.Unlock()
		if err == nil {
			err = p.await(ctx, n, func() bool { ok, rerr := p.room(n); return ok || rerr != nil })
		}
		if err != nil {
			return err
		}
	}
}

// commit appends a record to the open segment.
func (p *Producer) commit(ctx context.Context, h *Header, payload []byte) error {
	n := h.stored()
	if err := p.lockRoom(ctx, n); err != nil {
		return fmt.Errorf("commit record of kind %d: %w", h.Kind, err)
	}
	defer p.mu.Unlock()
	p.put(h, payload, n)
	return nil
}

// put appends a record of n bytes to the open segment, which has the room. The
// lock is held.
func (p *Producer) put(h *Header, payload []byte, n int) {
	h.Seq = p.seq
	p.seq++
	b := p.open.mem[p.used : p.used+n : p.used+n]
	h.Encode(b)
	end := HeaderSize + copy(b[HeaderSize:], payload)
	clear(b[end:])
	p.used += n
}

// commitBulk appends the header of a bulk record to the open segment.
func (p *Producer) commitBulk(ctx context.Context, h *Header, b *Buf) error {
	ref, outside := p.c.bulkRef(*b.bulk)
	n := HeaderSize
	if outside {
		h.Bulk = ref
		h.Flags |= FlagUnsummed
	} else {
		h.CRC = Checksum(b.mem)
		n += padded(len(b.mem))
	}
	if err := p.lockRoom(ctx, n); err != nil {
		return fmt.Errorf("commit bulk record of kind %d: %w", h.Kind, err)
	}
	defer p.mu.Unlock()
	if outside {
		p.put(h, nil, n)
	} else {
		p.put(h, b.mem, n)
	}
	p.users--
	p.pending += len(b.mem)
	if p.pending < p.c.eager() {
		return nil
	}
	return p.handOver(true)
}

// shrink gives back the end of bulk memory.
func (p *Producer) shrink(at place, n int) place {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.c.split(at, n)
}

// drop gives bulk memory back that was not committed.
func (p *Producer) drop(at place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.c.release(at)
	p.leave()
}
