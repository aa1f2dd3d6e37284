package hbuf

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// batch is one accepted packed segment: private memory, and references to the
// runs of the arena that its bulk records refer to.
type batch struct {
	packed     []byte
	count      int
	bulks      []bulk
	bytes      uint64 // of memory that it holds
	submission uint64 // number of submissions up to this one; 0 if it came as bytes
}

// bulk is one bulk record of a batch.
type bulk struct {
	at     int // of the header in packed
	first  int // segment
	n      int // segments; 0 if the payload is private memory
	length int
	data   []byte // if private
}

// pending tells whether step has something to do. It takes no lock.
func (c *Consumer) pending() bool {
	return c.word(wordSubmissions).Load() != c.tail.Load() ||
		c.word(wordWanted).Load() != c.served.Load() ||
		c.word(wordBarrier).Load() != c.barrier.Load() ||
		c.ended.Load()
}

// step does what is pending and reports whether there may be more. The plugin
// can do no harm while it runs but to the data: a fault in the arena (no memory
// left for a page) ends the session, not the host.
func (c *Consumer) step() (again bool, err error) {
	c.acceptMu.Lock()
	defer c.acceptMu.Unlock()
	c.mu.Lock()
	err = c.over()
	c.mu.Unlock()
	if err != nil {
		return false, err
	}
	barrier := c.word(wordBarrier).Load()
	if again, err = c.acceptNext(); err != nil {
		return false, c.fail(err)
	}
	if again && c.mayGather() {
		return true, nil
	}
	if err := c.writeDue(barrier); err != nil {
		return false, c.fail(err)
	}
	if again {
		return true, nil
	}
	c.barrier.Store(barrier)
	if err := c.serveWanted(); err != nil {
		return false, c.fail(err)
	}
	return false, nil
}

// mayGather tells whether more should be accepted before something is written,
// because there are writers without work. acceptMu is held.
func (c *Consumer) mayGather() bool {
	if c.writers == 1 || c.word(wordSubmissions).Load() == c.tail.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mode == WriteThrough && c.bulks < c.writers
}

// acceptNext accepts the next submission, if there is one. acceptMu is held.
func (c *Consumer) acceptNext() (found bool, err error) {
	defer faultsPanic()()
	defer catchFault(&err)
	head, tail := c.word(wordSubmissions).Load(), c.tail.Load()
	if head == tail {
		return false, nil
	}
	if head-tail > uint64(c.total) {
		return false, fmt.Errorf("submission ring: %d entries for %d segments: %w", head-tail, c.total, ErrProtocol)
	}
	first, length := entryParts(c.submission(tail).Load())
	run := c.runLen(uint64(length))
	if run > c.runLen(MaxBulk) {
		return false, fmt.Errorf("submission of %d bytes: %w", length, ErrProtocol)
	}
	c.mu.Lock()
	ok := c.table.hold(uint64(first), uint64(run))
	c.mu.Unlock()
	if !ok {
		return false, fmt.Errorf("submission of %d bytes at segment %d, which the plugin does not own: %w", length, first, ErrProtocol)
	}
	private := c.private(int(length))
	copy(private, c.run(int(first), int(length))) // before it is looked at
	b, err := c.parse(private)
	if err != nil {
		return false, fmt.Errorf("submission of %d bytes at segment %d: %w", length, first, err)
	}
	b.submission = tail + 1
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.drop(int(first), run)
	c.enqueue(b)
	// The references are taken: only now may the plugin hear of it.
	c.tail.Store(b.submission)
	c.word(wordAccepted).Store(b.submission)
	c.topUp()
	c.wakePlugin()
	return true, nil
}

// private returns memory for n bytes of packed records. What is written at once
// uses the same memory again and again.
func (c *Consumer) private(n int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mode == Deferred || uint64(n) > c.segment {
		return make([]byte, n)
	}
	last := len(c.spare) - 1
	if last < 0 {
		return make([]byte, n, c.segment)
	}
	b := c.spare[last]
	c.spare[last] = nil
	c.spare = c.spare[:last]
	return b[:n]
}

// parse checks a private copy of a packed segment of the arena, and takes
// references to the bulk payloads.
func (c *Consumer) parse(packed []byte) (*batch, error) {
	b := &batch{packed: packed, bytes: uint64(len(packed))}
	var r Record
	for off := 0; off < len(packed); {
		n, err := r.decode(packed[off:])
		if err != nil {
			return nil, fmt.Errorf("record at offset %d: %w: %w", off, ErrProtocol, err)
		}
		if r.Seq != c.seq {
			return nil, fmt.Errorf("record at offset %d: number %d, want %d: %w", off, r.Seq, c.seq, ErrProtocol)
		}
		if r.IsBulk() {
			ref := bulk{at: off, first: int(r.Bulk / c.segment), n: c.runLen(r.Length), length: int(r.Length)}
			c.mu.Lock()
			ok := r.Bulk%c.segment == 0 && c.table.hold(r.Bulk/c.segment, uint64(ref.n))
			c.mu.Unlock()
			if !ok {
				return nil, fmt.Errorf("record at offset %d: bulk of %d bytes at %#x, which the plugin does not own: %w",
					off, r.Length, r.Bulk, ErrProtocol)
			}
			b.bulks = append(b.bulks, ref)
			b.bytes += uint64(ref.n) * c.segment
		}
		c.seq++
		b.count++
		off += n
	}
	return b, nil
}

// Accept takes a packed segment that came as bytes and belongs to the consumer
// from now on. Payloads of bulk records follow their headers. In write-through
// mode it returns when the records are written.
func (c *Consumer) Accept(segment []byte) error {
	c.use.RLock()
	defer c.use.RUnlock()
	c.acceptMu.Lock()
	defer c.acceptMu.Unlock()
	c.mu.Lock()
	err := c.over()
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("accept %d bytes of records: %w", len(segment), err)
	}
	b, err := c.parseInline(segment)
	if err != nil {
		return c.fail(fmt.Errorf("accept %d bytes of records: %w", len(segment), err))
	}
	c.mu.Lock()
	c.enqueue(b)
	c.mu.Unlock()
	if err := c.writeDue(0); err != nil {
		return c.fail(err)
	}
	return nil
}

// parseInline checks a packed segment in which bulk payloads follow their
// headers.
func (c *Consumer) parseInline(segment []byte) (*batch, error) {
	b := &batch{bytes: uint64(len(segment))}
	for off := 0; off < len(segment); {
		h, err := DecodeHeader(segment[off:])
		if err == nil && (h.Bulk != 0 || h.Flags&FlagUnsummed != 0) {
			err = fmt.Errorf("reference into an arena: %w", ErrCorrupt)
		}
		if err != nil {
			return nil, fmt.Errorf("record at offset %d: %w: %w", off, ErrProtocol, err)
		}
		if h.Seq != c.seq {
			return nil, fmt.Errorf("record at offset %d: number %d, want %d: %w", off, h.Seq, c.seq, ErrProtocol)
		}
		payload, n, err := inlinePayload(&h, segment[off:])
		if err != nil {
			return nil, fmt.Errorf("record at offset %d: %w: %w", off, ErrProtocol, err)
		}
		if h.IsBulk() {
			b.bulks = append(b.bulks, bulk{at: len(b.packed), length: len(payload), data: payload})
		}
		b.packed = append(b.packed, segment[off:off+h.stored()]...)
		c.seq++
		b.count++
		off += n
	}
	return b, nil
}

// enqueue adds a batch to what is to be written. The lock is held.
func (c *Consumer) enqueue(b *batch) {
	c.queue = append(c.queue, b)
	c.held += b.bytes
	c.bulks += len(b.bulks)
	c.stats.Segments++
	c.stats.Records += uint64(b.count)
	c.stats.RecordBytes += uint64(len(b.packed))
	for _, k := range b.bulks {
		c.stats.BulkBytes += uint64(k.length)
	}
	c.stats.MaxHeld = max(c.stats.MaxHeld, c.held)
}

// catchFault turns a fault in a mapping into an error. Every other panic goes
// on.
func catchFault(err *error) {
	r := recover()
	if r == nil {
		return
	}
	fault, ok := r.(interface {
		error
		Addr() uintptr
	})
	if !ok {
		panic(r)
	}
	*err = errors.Join(*err, fmt.Errorf("fault in arena: %w: %w", ErrProtocol, fault))
}

// faultsPanic makes faults of the calling goroutine panics until the returned
// function is called.
func faultsPanic() (restore func()) {
	old := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(old) }
}
