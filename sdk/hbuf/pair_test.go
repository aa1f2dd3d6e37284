package hbuf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// memSink keeps what it is given.
type memSink struct {
	mu     sync.Mutex
	packed []byte
	count  int
	bulk   map[uint64][]byte
	next   uint64
	gate   chan struct{} // if set, every call takes a token
	err    error         // returned by WriteRecords
}

func (s *memSink) WriteRecords(packed []byte, count int) error {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packed = append(s.packed, packed...)
	s.count += count
	return s.err
}

func (s *memSink) WriteBulk(data []byte) (uint64, error) {
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bulk == nil {
		s.bulk = map[uint64][]byte{}
	}
	s.next += PageSize
	off := s.next
	s.next += uint64(len(data)+PageSize-1) &^ (PageSize - 1)
	s.bulk[off] = bytes.Clone(data)
	return off, nil
}

// written returns how many records were written.
func (s *memSink) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// records checks everything that was written and returns it, with the payloads
// of bulk records.
func (s *memSink) records() ([]Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Record
	for r, err := range Records(s.packed) {
		if err != nil {
			return all, err
		}
		if r.Seq != uint64(len(all)) {
			return all, fmt.Errorf("record %d has the number %d", len(all), r.Seq)
		}
		if r.IsBulk() {
			data, ok := s.bulk[r.Bulk]
			if !ok || r.Flags != FlagBulk || uint64(len(data)) != r.Length || Checksum(data) != r.CRC {
				return all, fmt.Errorf("bulk record %d: %+v with %d bytes", len(all), r.Header, len(data))
			}
			r.Payload = data
		}
		all = append(all, r)
	}
	if len(all) != s.count {
		return all, fmt.Errorf("%d records, but %d were announced", len(all), s.count)
	}
	return all, nil
}

// session is a plugin and its host in one process.
type session struct {
	*testing.T
	p    *Producer
	c    *Consumer
	sink *memSink
	ctx  context.Context
	done chan error // result of Serve
}

// open starts a session that ends with the test.
func open(t *testing.T, cfg Config) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	s := &session{T: t, ctx: ctx, done: make(chan error, 1)}
	if cfg.Sink == nil {
		cfg.Sink = &memSink{}
	}
	s.sink, _ = cfg.Sink.(*memSink)
	var err error
	if s.c, err = NewConsumer(cfg); err != nil {
		t.Fatal(err)
	}
	f := s.c.Files()
	if s.p, err = Attach(f[0], f[1], f[2], s.c.ArenaSize(), s.c.SegmentSize()); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.c.Serve(ctx) }()
	t.Cleanup(func() {
		if err := s.p.Close(); err != nil {
			t.Error(err)
		}
		if err := s.c.Close(); err != nil {
			t.Error(err)
		}
		select {
		case <-s.done:
		case <-time.After(10 * time.Second):
			t.Error("Serve does not return")
		}
	})
	return s
}

// must ends the test on an error.
func (s *session) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// pattern fills b with bytes that depend on its number.
func pattern(b []byte, number uint64) {
	n := min(len(b), 256)
	for i := range n {
		b[i] = byte(number) ^ byte(i*7)
	}
	for n > 0 && n < len(b) {
		n += copy(b[n:], b[:n])
	}
}

// emit commits a record whose payload is the pattern of object.
func (s *session) emit(size int, object uint64) error {
	b, err := s.p.Get(s.ctx, size)
	if err != nil {
		return err
	}
	pattern(b.Payload(), object)
	return b.Commit(s.ctx, 1, 1, object)
}

// bulk commits a bulk record whose payload is the pattern of object.
func (s *session) bulk(size int, object uint64) error {
	b, err := s.p.GetBulk(s.ctx, size)
	if err != nil {
		return err
	}
	pattern(b.Payload(), object)
	return b.Commit(s.ctx, 2, 1, object)
}

// check compares everything that was written with want, the lengths of the
// payloads by object.
func (s *session) check(want []int) {
	s.Helper()
	records, err := s.sink.records()
	s.must(err)
	if len(records) != len(want) {
		s.Fatalf("%d records, want %d", len(records), len(want))
	}
	for i, r := range records {
		expect := make([]byte, want[i])
		pattern(expect, uint64(i))
		if r.Object != uint64(i) || !bytes.Equal(r.Payload, expect) {
			s.Fatalf("record %d: object %d, %d bytes, want %d", i, r.Object, len(r.Payload), want[i])
		}
	}
	stats := s.c.Stats()
	if total := stats.PluginSegments + stats.HeldSegments + stats.FreeSegments; total != s.c.total-s.c.first {
		s.Errorf("%d segments are accounted for, want %d", total, s.c.total-s.c.first)
	}
	if stats.HeldSegments != 0 || stats.Held != 0 {
		s.Errorf("%d bytes in %d segments are still held", stats.Held, stats.HeldSegments)
	}
}

// ends waits for Serve and checks its error and that of the plugin's calls.
func (s *session) ends(want error) {
	s.Helper()
	select {
	case err := <-s.done:
		s.done <- err
		if !errors.Is(err, want) || want == nil && err != nil {
			s.Errorf("Serve: %v, want %v", err, want)
		}
	case <-time.After(10 * time.Second):
		s.Fatal("Serve does not return")
	}
}
