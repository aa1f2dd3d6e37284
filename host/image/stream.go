package image

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk/hbuf"
)

const (
	// recordBuffer is how many bytes of packed records are gathered before a
	// block is written.
	recordBuffer = 256 << 10
	// directRecords is the size from which packed records are written as a
	// block of their own without being copied.
	directRecords = 64 << 10
)

var (
	_ hbuf.Sink       = (*Stream)(nil)
	_ hbuf.BulkSummer = (*Stream)(nil)
)

// Stream takes the records of one plugin. It is an [hbuf.Sink]. Its methods
// may be called concurrently; records are in the image in the order of the
// calls.
type Stream struct {
	w      *Writer
	name   string
	number uint32

	// mu guards what follows. In a sequential writer it is the same for all
	// streams.
	mu        *sync.Mutex
	records   []byte // packed, not yet written
	count     uint32 // of records
	next      uint64 // sequence number for Append
	group     *group // open bulk block for small payloads
	spare     []byte // buffer of the last group
	groupSize uint64 // room of the last group

	counts streamCounts // guarded by Writer.mu
}

type streamCounts struct {
	blocks uint64
	StreamTotals
}

func (c *streamCounts) add(h blockHeader) {
	c.blocks++
	if h.kind == blockRecords {
		c.Records += uint64(h.count)
		c.RecordBytes += h.length
	}
}

// start writes the stream block.
func (s *Stream) start(body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.w.closeOpen(); err != nil {
		return err
	}
	return s.w.writeBlock(blockHeader{kind: blockStream, stream: s.number}, s, body)
}

// WriteRecords appends packed records: count of them, each a header, payload
// and zero padding to 64 bytes. The memory is the caller's again when it
// returns.
func (s *Stream) WriteRecords(packed []byte, count int) error {
	if len(packed) == 0 && count == 0 {
		return nil
	}
	if err := s.w.enter(); err != nil {
		return s.wrap(err)
	}
	defer s.w.leave()
	h := blockHeader{kind: blockRecords, stream: s.number, count: uint32(count), length: uint64(len(packed))}
	if err := h.check(); err != nil {
		return s.wrap(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeRecords(packed, count)
}

// writeRecords is called with s.mu held.
func (s *Stream) writeRecords(packed []byte, count int) error {
	if len(packed) >= directRecords || len(s.records)+len(packed) > recordBuffer {
		if err := s.flushRecords(); err != nil {
			return err
		}
	}
	if len(packed) >= directRecords {
		return s.putRecords(packed, uint32(count))
	}
	s.records = append(s.records, packed...)
	s.count += uint32(count)
	return nil
}

// Append encodes m as the payload of the stream's next record. It is for the
// host's own records: a stream is filled either by Append or by WriteRecords.
func (s *Stream) Append(kind uint32, version uint16, object uint64, m proto.Message) error {
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return s.wrap(fmt.Errorf("encode record kind %d of object %d: %w", kind, object, err))
	}
	if err := s.w.enter(); err != nil {
		return s.wrap(err)
	}
	defer s.w.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	packed := packRecord(kind, version, object, s.next, payload)
	s.next++
	return s.writeRecords(packed, 1)
}

// flushRecords writes what was gathered. s.mu is held.
func (s *Stream) flushRecords() error {
	if s.count == 0 {
		return nil
	}
	err := s.putRecords(s.records, s.count)
	s.records, s.count = s.records[:0], 0
	return err
}

func (s *Stream) putRecords(packed []byte, count uint32) error {
	if err := s.w.closeOpen(); err != nil {
		return err
	}
	h := blockHeader{kind: blockRecords, stream: s.number, count: count}
	return s.fail(s.w.writeBlock(h, s, packed))
}

// flush writes everything that was gathered. The writer's gate is held for
// writing.
func (s *Stream) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.closeGroup(); err != nil {
		return err
	}
	if err := s.flushRecords(); err != nil {
		return err
	}
	s.records, s.spare = nil, nil
	return nil
}

func (s *Stream) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("write image: stream %s: %w", s.name, err)
}

// fail wraps an error and ends the writer by it.
func (s *Stream) fail(err error) error { return s.w.fail(s.wrap(err)) }
