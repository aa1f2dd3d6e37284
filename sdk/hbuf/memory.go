package hbuf

import (
	"context"
	"fmt"
	"sync"
	"unsafe"
)

// memory is the carrier of a producer without an arena: packed segments are
// private memory that is handed to a function.
type memory struct {
	submit func(segment []byte) error
	failed error
}

// NewMemoryProducer returns a producer that calls submit with each packed
// segment, which belongs to submit from then on. Payloads of bulk records
// follow their headers like those of other records: [Consumer.Accept] takes
// such segments. Calls of submit are made one at a time, in order; an error
// ends the producer. A segment is at most about [MaxBulk] plus
// [DefaultSegment] bytes long.
//
// Flush and Barrier return when submit has returned; that the host has
// accepted or written the segment is for submit to know.
func NewMemoryProducer(submit func(segment []byte) error) *Producer {
	return newProducer(&memory{submit: submit})
}

func (m *memory) reserve(n int, bulk bool) (place, bool) {
	if !bulk {
		return place{mem: make([]byte, max(n, DefaultSegment))}, true
	}
	// Page aligned, as in an arena.
	mem := make([]byte, n+PageSize)
	skip := -uintptr(unsafe.Pointer(&mem[0])) & (PageSize - 1)
	return place{mem: mem[skip : int(skip)+n]}, true
}

func (m *memory) release(place) {}

func (m *memory) split(at place, _ int) place { return at }

func (m *memory) publish(at place, n int, _ bool) error {
	if err := m.submit(at.mem[:n:n]); err != nil {
		m.failed = fmt.Errorf("submit %d bytes of records: %w", n, err)
	}
	return m.failed
}

func (m *memory) bulkRef(place) (uint64, bool) { return 0, false }

func (m *memory) state() error { return m.failed }

func (m *memory) eager() int { return DefaultSegment }

func (m *memory) warm(uint64) {}

func (m *memory) limit() int { return HeaderSize + MaxBulk }

func (m *memory) reached(bool) bool { return true }

func (m *memory) wait(_ context.Context, mu *sync.Mutex, _ int, ready func() bool) error {
	mu.Lock()
	defer mu.Unlock()
	ready() // memory is always free
	return nil
}

func (m *memory) wake() {}

func (m *memory) close() error { return nil }
