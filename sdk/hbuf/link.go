package hbuf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// link is the plugin's end of an arena. It is a carrier.
type link struct {
	*arena
	submit, complete doorbell
	head             uint64 // submissions published
	tail             uint64 // completions consumed
	free             freeMap
	touched          []bool // segments that this process has in its page tables
	batch            int    // bulk bytes that are handed over at once
	broken           error
	changed          chan struct{} // closed when memory became free in this process
	kicks            atomic.Uint64 // how often that happened
	watch            chan struct{} // held by the one goroutine that waits for the host
}

func newLink(f, submitEvt, completeEvt *os.File, size uint64, segmentSize uint32) (*link, error) {
	geometry, err := newLayout(size, segmentSize)
	if err != nil {
		return nil, err
	}
	l := &link{
		free: newFreeMap(geometry.total), touched: make([]bool, geometry.total),
		changed: make(chan struct{}), watch: make(chan struct{}, 1),
	}
	if l.arena, err = mapArena(f, geometry); err != nil {
		return nil, err
	}
	if l.submit, err = dupDoorbell(submitEvt); err != nil {
		return nil, errors.Join(err, l.unmap())
	}
	if l.complete, err = dupDoorbell(completeEvt); err != nil {
		return nil, errors.Join(err, l.submit.f.Close(), l.unmap())
	}
	l.reap()
	if l.broken != nil {
		return nil, errors.Join(l.broken, l.close())
	}
	l.batch = min(maxBatch, l.free.count*int(l.segment)/4)
	_ = l.populate(0, l.control()) // else: on first use
	for first := l.first; first < l.total; first++ {
		n := 0
		for first+n < l.total && l.free.free[first+n] {
			n++
		}
		l.touch(first, n)
		first += n
	}
	return l, nil
}

// touch enters segments into this process's page tables at once, which costs a
// fraction of one fault per page.
func (l *link) touch(first, n int) {
	for end := first + n; first < end; first++ {
		if l.touched[first] {
			continue
		}
		from := first
		for ; first < end && !l.touched[first]; first++ {
			l.touched[first] = true
		}
		_ = l.populate(uint64(from)*l.segment, uint64(first-from)*l.segment) // else: on first use
	}
}

// warm is like touch for what the host is going to grant, from the first segment
// on. Bulk payloads of a megabyte take up to one packed segment each, which is
// hardly filled but held until it is written.
func (l *link) warm(n uint64) {
	run := l.runLen(n)
	l.touch(l.first, min(packedRegion+run+run/4, l.total-l.first))
}

// reap takes over the segments that the host gave.
func (l *link) reap() {
	head := l.word(wordCompletions).Load()
	if head-l.tail > l.entries {
		l.broken = fmt.Errorf("completion ring: %d entries: %w", head-l.tail, ErrProtocol)
		return
	}
	for ; l.tail != head; l.tail++ {
		first, n := entryParts(l.completion(l.tail).Load())
		if int(first) < l.first || !l.free.put(int(first), int(n)) {
			l.broken = fmt.Errorf("completion of %d segments from %d: %w", n, first, ErrProtocol)
			return
		}
	}
}

func (l *link) reserve(n int, bulk bool) (place, bool) {
	run := l.runLen(uint64(n))
	from := l.first
	if bulk {
		from += packedRegion
	}
	first, ok := l.free.take(run, from)
	if !ok {
		l.reap()
		if first, ok = l.free.take(run, from); !ok {
			return place{}, false
		}
	}
	l.touch(first, run)
	return place{mem: l.run(first, run*int(l.segment)), first: first, n: run}, true
}

func (l *link) release(at place) {
	if at.n == 0 {
		return
	}
	l.free.put(at.first, at.n)
	l.wake()
}

func (l *link) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
	l.kicks.Add(1)
	l.complete.ringIf(l.word(wordPluginSleeps))
}

func (l *link) split(at place, n int) place {
	keep := max(l.runLen(uint64(n)), 1)
	if keep >= at.n {
		return at
	}
	l.release(place{mem: at.mem, first: at.first + keep, n: at.n - keep})
	return place{mem: l.run(at.first, keep*int(l.segment)), first: at.first, n: keep}
}

// Waking the host costs a plugin as much as copying 200 KiB, so it is done for
// much at once: patience is a number of packed segments, maxBatch the bytes of
// bulk payloads, or a quarter of what the plugin got at first if that is less.
const (
	patience = 4
	maxBatch = 4 << 20
)

func (l *link) publish(at place, n int, urgent bool) error {
	if keep := l.runLen(uint64(n)); keep < at.n {
		l.release(place{mem: at.mem, first: at.first + keep, n: at.n - keep})
	}
	l.submission(l.head).Store(entry(at.first, n))
	l.head++
	l.word(wordSubmissions).Store(l.head)
	if urgent || l.head-l.word(wordAccepted).Load() >= patience {
		l.nudge()
	}
	return nil
}

// nudge wakes the host if it sleeps.
func (l *link) nudge() { l.submit.ringIf(l.word(wordHostSleeps)) }

func (l *link) bulkRef(at place) (uint64, bool) { return uint64(at.first) * l.segment, true }

func (l *link) state() error {
	if l.word(wordState).Load() == stateClosed {
		return ErrClosed
	}
	return l.broken
}

func (l *link) eager() int { return l.batch }

func (l *link) limit() int { return (l.total - l.first) * int(l.segment) }

func (l *link) reached(written bool) bool {
	if !written {
		return l.word(wordAccepted).Load() >= l.head
	}
	if l.word(wordWritten).Load() >= l.head {
		return true
	}
	if l.word(wordBarrier).Load() < l.head {
		l.word(wordBarrier).Store(l.head)
		l.nudge()
	}
	return false
}

// seen is everything whose change can end a wait.
type seen struct{ completions, accepted, written, state, kicks uint64 }

func (l *link) seen() seen {
	return seen{
		l.word(wordCompletions).Load(), l.word(wordAccepted).Load(),
		l.word(wordWritten).Load(), l.word(wordState).Load(), l.kicks.Load(),
	}
}

func (l *link) wait(ctx context.Context, mu *sync.Mutex, want int, ready func() bool) error {
	for {
		mu.Lock()
		before := l.seen()
		ok := ready()
		l.want(want, ok)
		changed := l.changed
		if !ok {
			l.nudge()
		}
		mu.Unlock()
		if ok {
			return nil
		}
		select {
		case l.watch <- struct{}{}:
			err := l.complete.await(ctx, l.word(wordPluginSleeps), func() bool { return l.seen() != before })
			<-l.watch
			if err != nil {
				return err
			}
			mu.Lock()
			close(l.changed) // the others look as well
			l.changed = make(chan struct{})
			mu.Unlock()
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// want tells the host how long a run of segments is missing, if any, and which
// completions were seen when it was: it gives more when it cannot free any.
func (l *link) want(bytes int, served bool) {
	word := l.word(wordWanted)
	if bytes == 0 {
		return
	}
	if served {
		word.Store(0)
		return
	}
	wanted := entry(l.runLen(uint64(bytes)), int(uint32(l.tail)))
	if word.Swap(wanted) != wanted {
		l.nudge()
	}
}

func (l *link) close() error {
	return errors.Join(l.submit.f.Close(), l.complete.f.Close(), l.unmap())
}
