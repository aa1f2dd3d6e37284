package hbuf

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Drain accepts what the plugin has published and writes everything that was
// accepted before it returns. Records may be submitted meanwhile; it does not
// wait for those. It does not need the plugin to be alive, or Serve to run.
func (c *Consumer) Drain(ctx context.Context) error {
	c.use.RLock()
	defer c.use.RUnlock()
	if err := c.acceptPublished(ctx); err != nil {
		return fmt.Errorf("drain records: %w", err)
	}
	c.mu.Lock()
	n := len(c.queue)
	c.mu.Unlock()
	for range n {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("drain records: %w", context.Cause(ctx))
		}
		found, err := c.writeOldest()
		if err != nil {
			return fmt.Errorf("drain records: %w", c.fail(err))
		}
		if !found {
			break
		}
	}
	return c.Err()
}

// acceptPublished accepts all submissions that were published when it was
// called.
func (c *Consumer) acceptPublished(ctx context.Context) error {
	if err := c.Err(); err != nil || c.arena == nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		again, err := c.step()
		if !again || err != nil {
			return err
		}
	}
}

// writeDue writes what may not be held any longer. The plugin waits for the
// submissions up to barrier.
func (c *Consumer) writeDue(barrier uint64) error {
	for {
		c.mu.Lock()
		due := len(c.queue) > 0 && (c.mode == WriteThrough || c.held > c.limit || c.written < barrier)
		c.mu.Unlock()
		if !due {
			return nil
		}
		found, err := c.writeOldest()
		if err != nil {
			return err
		}
		if !found {
			return nil
		}
	}
}

// writeOldest writes what was accepted first: one batch, or as many as there are
// writers for their bulk payloads. It reports whether there was something.
func (c *Consumer) writeOldest() (found bool, err error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.mu.Lock()
	err = c.over()
	n, bulks := 0, 0
	for n < len(c.queue) && (n == 0 || bulks+len(c.queue[n].bulks) <= c.writers) {
		bulks += len(c.queue[n].bulks)
		n++
	}
	group := c.queue[:n:n]
	c.mu.Unlock()
	if err != nil || n == 0 {
		return false, err
	}
	if err := c.writeBulks(group); err != nil {
		return false, err
	}
	for _, b := range group {
		if err := c.sink.WriteRecords(b.packed, b.count); err != nil {
			return false, fmt.Errorf("write %d records: %w", b.count, err)
		}
		c.wrote(b)
	}
	return true, nil
}

// wrote removes the first batch of the queue. writeMu is held.
func (c *Consumer) wrote(b *batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue[0] = nil
	if c.queue = c.queue[1:]; len(c.queue) == 0 {
		c.queue = nil // and the memory of what was in it
	}
	if b.submission > 0 && uint64(cap(b.packed)) == c.segment && len(c.spare) < maxSpare {
		c.spare = append(c.spare, b.packed)
	}
	c.held -= b.bytes
	c.bulks -= len(b.bulks)
	c.stats.WrittenRecords += uint64(b.count)
	c.stats.WrittenBatches++
	if c.arena != nil && b.submission > 0 {
		c.written = b.submission
		c.word(wordWritten).Store(c.written)
		c.wakePlugin()
	}
}

// writeBulks writes the payloads of some batches, in no particular order if
// there is more than one writer. writeMu is held.
func (c *Consumer) writeBulks(group []*batch) error {
	if c.writers == 1 {
		for _, b := range group {
			for i := range b.bulks {
				if err := c.writeBulk(b, &b.bulks[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	var errs errorList
	slots := make(chan struct{}, c.writers)
	for _, b := range group {
		for i := range b.bulks {
			slots <- struct{}{}
			wg.Go(func() {
				errs.add(c.writeBulk(b, &b.bulks[i]))
				<-slots
			})
		}
	}
	wg.Wait()
	return errs.err()
}

// errorList collects errors of several goroutines.
type errorList struct {
	mu   sync.Mutex
	list []error
}

func (l *errorList) add(err error) {
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, err)
}

func (l *errorList) err() error { return errors.Join(l.list...) }

// writeBulk writes one payload and completes its header.
func (c *Consumer) writeBulk(b *batch, k *bulk) (err error) {
	defer faultsPanic()()
	defer catchFault(&err)
	data := k.data
	if k.n > 0 {
		data = c.run(k.first, k.length)
	}
	header := b.packed[k.at : k.at+HeaderSize]
	h, err := DecodeHeader(header)
	if err != nil {
		return fmt.Errorf("write bulk record: %w", err)
	}
	if h.Bulk, h.CRC, err = c.sinkBulk(data, &h); err != nil {
		return fmt.Errorf("write bulk record %d of %d bytes: %w", h.Seq, len(data), err)
	}
	h.Flags &^= FlagUnsummed
	h.Encode(header)
	c.releaseBulk(k)
	return nil
}

// sinkBulk gives a payload to the sink, which may compute the checksum if the
// plugin did not.
func (c *Consumer) sinkBulk(data []byte, h *Header) (offset uint64, sum uint32, err error) {
	summed := h.Flags&FlagUnsummed == 0
	if s, ok := c.sink.(BulkSummer); ok && !summed {
		return s.WriteBulkSum(data)
	}
	sum = Checksum(data)
	if summed && sum != h.CRC {
		return 0, 0, fmt.Errorf("payload changed after it was committed: %w", ErrProtocol)
	}
	offset, err = c.sink.WriteBulk(data)
	return offset, sum, err
}

// releaseBulk drops the reference to a payload that is written.
func (c *Consumer) releaseBulk(k *bulk) {
	k.data = nil
	if k.n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.drop(k.first, k.n)
	c.served.Store(0) // there is something to give again
	c.topUp()
}
