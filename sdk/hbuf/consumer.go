package hbuf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// Mode says when accepted records are written.
type Mode uint8

const (
	// WriteThrough writes records as soon as they are accepted.
	WriteThrough Mode = iota
	// Deferred keeps references and writes in [Consumer.Drain], or when more
	// than the memory limit is held.
	Deferred
)

// String returns the name of the mode.
func (m Mode) String() string {
	if m == Deferred {
		return "deferred"
	}
	return "write-through"
}

// Sink is where records are written. The consumer calls it from one goroutine
// at a time, but for WriteBulk if [Config].Writers allows it. An error ends the
// session.
type Sink interface {
	// WriteRecords takes count records in a packed segment of private memory
	// whose checksums were verified. Bulk references are the offsets that
	// WriteBulk returned. The memory must not be kept.
	WriteRecords(packed []byte, count int) error
	// WriteBulk takes the payload of a bulk record and returns its offset in
	// the image. It is called before the WriteRecords that refers to it. The
	// memory is the arena itself and must not be kept.
	WriteBulk(data []byte) (offset uint64, err error)
}

// BulkSummer is a [Sink] that computes the CRC32C of a payload while it writes
// it, if the record has none yet. Then WriteBulkSum is called in place of
// WriteBulk.
type BulkSummer interface {
	WriteBulkSum(data []byte) (offset uint64, sum uint32, err error)
}

// maxSpare is how many private buffers a consumer keeps for reuse.
const maxSpare = 4

// Default sizes of [Config] in bytes.
const (
	DefaultWarm  = 16 << 20
	DefaultArena = 64 << 20
)

// Config is how a [Consumer] is made.
type Config struct {
	// ArenaSize is the size of the memfd in bytes. Memory is used only for
	// what was touched, so it may be large. It is rounded up to what Warm,
	// MemoryLimit and the control area need only if it is 0.
	ArenaSize uint64
	// SegmentSize is DefaultSegment if 0; a multiple of PageSize.
	SegmentSize uint32
	// Warm is how many bytes the plugin may own at once; DefaultWarm if 0.
	Warm uint64
	// Initial is how much of it the plugin owns until [Consumer.Widen]; Warm
	// if 0. A plugin touches what it owns when it attaches: with a small value
	// one that emits little starts sooner.
	Initial uint64
	// Mode is the first mode.
	Mode Mode
	// MemoryLimit is how many bytes are held in deferred mode before the
	// oldest are written; with 0 it writes through.
	MemoryLimit uint64
	// Sink takes the records.
	Sink Sink
	// Writers is how many calls of WriteBulk may run at the same time; 1 if 0.
	Writers int
	// Log, if set, is called for rare events with a message and pairs of keys
	// and values (the method Debug of an hclog.Logger fits).
	Log func(msg string, args ...any)
	// NoArena makes a consumer that takes records by Accept only.
	NoArena bool
}

// Consumer is the host's side of the record protocol for one plugin in one
// session. All methods are safe for concurrent use.
type Consumer struct {
	sink    Sink
	log     func(msg string, args ...any)
	limit   uint64
	warm    int // segments
	window  int // segments that the plugin may own now; warm after Widen
	writers int
	*arena
	file             *os.File
	submit, complete doorbell

	use     sync.RWMutex  // held for reading by whoever touches the arena
	ended   atomic.Bool   // closed or failed
	end     chan struct{} // closed when ended becomes true
	served  atomic.Uint64 // the wanted word that was dealt with last
	barrier atomic.Uint64 // the barrier that was dealt with last

	acceptMu sync.Mutex    // serializes acceptance
	tail     atomic.Uint64 // submissions taken over; changed under acceptMu
	seq      uint64        // number of the next record
	writeMu  sync.Mutex    // serializes writing

	mu      sync.Mutex
	mode    Mode
	table   ownerTable
	head    uint64 // completions published
	queue   []*batch
	held    uint64   // bytes in queue
	bulks   int      // bulk payloads in queue
	spare   [][]byte // memory of batches that were written
	written uint64   // submissions
	stats   Stats
	err     error // why the session is over
	closed  bool
}

// NewConsumer creates the arena and its doorbells. The arena is not touched:
// see [Consumer.Populate].
func NewConsumer(cfg Config) (*Consumer, error) {
	if cfg.Sink == nil {
		return nil, errors.New("new record consumer: no sink")
	}
	c := &Consumer{sink: cfg.Sink, log: cfg.Log, limit: cfg.MemoryLimit, mode: cfg.Mode, writers: max(cfg.Writers, 1), end: make(chan struct{})}
	if c.log == nil {
		c.log = func(string, ...any) {}
	}
	if cfg.NoArena {
		return c, nil
	}
	if err := c.create(cfg); err != nil {
		return nil, fmt.Errorf("new record consumer: %w", err)
	}
	c.mu.Lock()
	c.topUp()
	c.mu.Unlock()
	return c, nil
}

// create makes the arena.
func (c *Consumer) create(cfg Config) error {
	if cfg.SegmentSize == 0 {
		cfg.SegmentSize = DefaultSegment
	}
	if cfg.Warm == 0 {
		cfg.Warm = DefaultWarm
	}
	segment := uint64(cfg.SegmentSize)
	if cfg.ArenaSize == 0 {
		data := cfg.Warm + cfg.MemoryLimit
		cfg.ArenaSize = data + ringsOffset + 4*ringEntrySize*ringsPerDirection*(data/segment+4) + segment
	}
	cfg.ArenaSize = (cfg.ArenaSize + segment - 1) / segment * segment
	geometry, err := newLayout(cfg.ArenaSize, cfg.SegmentSize)
	if err != nil {
		return err
	}
	data := geometry.total - geometry.first
	c.warm = min(geometry.runLen(cfg.Warm), data)
	c.window = c.warm
	if cfg.Initial > 0 {
		c.window = min(c.warm, geometry.runLen(cfg.Initial))
	}
	// What is held plus what the plugin owns has to fit.
	c.limit = min(c.limit, uint64(data-c.warm)*segment)
	c.table = newOwnerTable(geometry.first, geometry.total)
	if c.file, err = createArena(geometry.size); err != nil {
		return err
	}
	if c.arena, err = mapArena(c.file, geometry); err != nil {
		return errors.Join(err, c.file.Close())
	}
	if c.submit, err = newDoorbell("firn-submit"); err != nil {
		return errors.Join(err, c.unmap(), c.file.Close())
	}
	if c.complete, err = newDoorbell("firn-complete"); err != nil {
		return errors.Join(err, c.submit.f.Close(), c.unmap(), c.file.Close())
	}
	return nil
}

// Files are the descriptors that the plugin needs: arena, submission and
// completion eventfd. They belong to the consumer. Nil without an arena.
func (c *Consumer) Files() []*os.File {
	if c.arena == nil {
		return nil
	}
	return []*os.File{c.file, c.submit.f, c.complete.f}
}

// ArenaSize is the size of the arena in bytes; 0 without one.
func (c *Consumer) ArenaSize() uint64 {
	if c.arena == nil {
		return 0
	}
	return c.size
}

// SegmentSize is the size of a segment in bytes; 0 without an arena.
func (c *Consumer) SegmentSize() uint32 {
	if c.arena == nil {
		return 0
	}
	return uint32(c.segment)
}

// Populate gives memory to the control area and the first n bytes behind it,
// which costs about a microsecond per page: do it before the tree is frozen.
// In deferred mode the plugin gets all of it, and touches what it has when it
// attaches or first uses it.
func (c *Consumer) Populate(n uint64) error {
	if c.arena == nil {
		return nil
	}
	c.use.RLock()
	defer c.use.RUnlock()
	c.mu.Lock()
	if err := c.over(); err != nil {
		c.mu.Unlock()
		return err
	}
	if run := min(c.runLen(n), c.total-c.first); c.mode == Deferred && run > c.table.plugin+c.table.held {
		c.grant(run - c.table.plugin - c.table.held)
	}
	c.mu.Unlock()
	n = min(n, uint64(c.total-c.first)*c.segment)
	return c.populate(0, uint64(c.first)*c.segment+n)
}

// Widen lets the plugin own as much as Config.Warm says.
func (c *Consumer) Widen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.window = c.warm
	if c.arena != nil && !c.closed {
		c.topUp()
	}
}

// SetMode changes the mode for what is accepted from now on. What is already
// held is written by Drain, or before the next record in write-through mode.
func (c *Consumer) SetMode(m Mode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mode = m
	if c.arena != nil && !c.closed {
		c.topUp()
	}
}

// Serve accepts what the plugin submits until ctx ends (its cause is
// returned), Close is called (nil), or the session fails. The plugin is to be
// killed if it fails with [ErrProtocol].
func (c *Consumer) Serve(ctx context.Context) error {
	if c.arena == nil {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.end:
			return c.ending()
		}
	}
	c.use.RLock()
	defer c.use.RUnlock()
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		again, err := c.step()
		if err != nil {
			return c.ending()
		}
		if again {
			continue
		}
		if err := c.submit.await(ctx, c.word(wordHostSleeps), c.pending); err != nil {
			return err
		}
	}
}

// ending is what Serve returns when the session is over.
func (c *Consumer) ending() error {
	if err := c.Err(); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}

// Err returns why the session is over, or nil.
func (c *Consumer) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over()
}

// Close ends the session. The plugin's calls fail with ErrClosed; what was not
// written is dropped; Serve returns.
func (c *Consumer) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.endSession()
	c.mu.Unlock()
	c.use.Lock()
	defer c.use.Unlock()
	c.queue, c.spare = nil, nil
	if c.arena == nil {
		return nil
	}
	return errors.Join(c.submit.f.Close(), c.complete.f.Close(), c.unmap(), c.file.Close())
}

// over returns why the session is over. The lock is held.
func (c *Consumer) over() error {
	if c.err == nil && c.closed {
		return ErrClosed
	}
	return c.err
}

// fail ends the session with the first error.
func (c *Consumer) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if c.err == nil {
		c.err = err
		c.endSession()
	}
	return c.err
}

// endSession tells the plugin, and Serve, that the session is over. The lock is
// held.
func (c *Consumer) endSession() {
	if !c.ended.Swap(true) {
		close(c.end)
	}
	if c.arena == nil {
		return
	}
	c.word(wordState).Store(stateClosed)
	c.complete.ring()
	c.submit.ring()
}
