package hbuf

import (
	"context"
	"errors"
	"testing"
)

// FuzzArena lets a plugin do what the input says: the host must answer
// everything with records that are valid or with ErrProtocol, and account for
// every segment.
func FuzzArena(f *testing.F) {
	f.Add([]byte{0, 1, 0, 1, 1, 2, 2, 3, 3, 1, 0, 0})
	f.Add([]byte{0, 1, 0, 4, 2, 0, 3, 1, 0, 0, 2, 0, 3, 0, 0, 5, 0, 9})
	f.Add([]byte{1, 1, 2, 0, 2, 2, 0, 4, 3, 1, 0, 3, 4, 1, 255})
	f.Fuzz(func(t *testing.T, in []byte) {
		mode := Mode(len(in) % 2)
		h := attack(t, mode)
		var seq uint64
		next := func() (b byte) {
			if len(in) > 0 {
				b, in = in[0], in[1:]
			}
			return b
		}
		used := make(map[int]int) // bytes that were put into a segment
		for len(in) > 0 {
			segment := int(next()) % (h.total + 2)
			op := next()
			if segment >= h.total && op%8 < 5 {
				segment = h.first
			}
			switch op % 8 {
			case 0, 1: // a valid record
				b := small(seq)
				h.fill(segment, append(h.run(segment, used[segment]), b...))
				used[segment] += len(b)
				seq++
			case 2, 3: // a bulk record
				b := bulkTo(seq, uint64(next())*h.segment, uint64(next())<<9+1)
				h.fill(segment, append(h.run(segment, used[segment]), b...))
				used[segment] += len(b)
				seq++
			case 4: // damage
				h.mem[uint64(segment)*h.segment+uint64(next())] ^= next()
			case 5, 6:
				h.submit(segment, used[segment])
				used[segment] = 0
			case 7: // a word of the control area
				off := uint64(next()) * 64
				if off >= h.segment {
					off = wordBarrier
				}
				h.word(off).Store(uint64(next())<<32 | uint64(next()))
			}
			if used[segment] > int(h.segment)-2*HeaderSize-Align {
				used[segment] = 0
			}
		}
		if err := h.serve(); err != nil && !errors.Is(err, ErrProtocol) {
			t.Fatal(err)
		}
		if _, err := h.sink.records(); err != nil {
			t.Fatal(err)
		}
		st := h.c.Stats()
		if n := st.PluginSegments + st.HeldSegments + st.FreeSegments; n != h.total-h.first {
			t.Fatalf("%d segments are accounted for, want %d", n, h.total-h.first)
		}
	})
}

// FuzzCompletions feeds a plugin with a ring that the host did not write.
func FuzzCompletions(f *testing.F) {
	f.Add(uint64(1), uint64(1)<<32|1, uint64(3))
	f.Add(uint64(5), uint64(1)<<63, uint64(1)<<33)
	f.Fuzz(func(t *testing.T, head, one, two uint64) {
		h := attack(t, WriteThrough)
		h.word(wordCompletions).Store(head % 128)
		h.completion(0).Store(one)
		h.completion(1).Store(two)
		files := h.c.Files()
		p, err := Attach(files[0], files[1], files[2], h.c.ArenaSize(), h.c.SegmentSize())
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		defer func() { _ = p.Close() }()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if b, err := p.GetBulk(ctx, 1); err == nil {
			b.Put()
		}
	})
}

// FuzzAccept feeds the host with a packed segment that came as bytes: what is
// accepted and put back together is the same.
func FuzzAccept(f *testing.F) {
	f.Add(small(0), false)
	f.Add(append(small(0), small(1)...), true)
	f.Add(appendInline(small(0), 1, []byte("bulk payload")), true)
	f.Fuzz(func(t *testing.T, segment []byte, deferred bool) {
		sink := &memSink{}
		cfg := Config{NoArena: true, Sink: sink, MemoryLimit: 1 << 20}
		if deferred {
			cfg.Mode = Deferred
		}
		c, err := NewConsumer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		before := append([]byte(nil), segment...)
		if err := c.Accept(segment); err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		if err := c.Drain(context.Background()); err != nil {
			t.Fatal(err)
		}
		records, err := sink.records()
		if err != nil {
			t.Fatal(err)
		}
		var again []byte
		for _, r := range records {
			if r.IsBulk() {
				r.Bulk = 0
				again = appendInline(again, r.Seq, r.Payload, r.Header)
			} else {
				again = AppendRecord(again, r.Header, r.Payload)
			}
		}
		if string(again) != string(before) {
			t.Fatalf("% x became % x", before, again)
		}
	})
}

// appendInline appends a bulk record whose payload follows its header.
func appendInline(b []byte, seq uint64, payload []byte, like ...Header) []byte {
	h := Header{Flags: FlagBulk, Kind: 2, Seq: seq}
	if len(like) > 0 {
		h = like[0]
	}
	h.Length, h.CRC, h.Bulk = uint64(len(payload)), Checksum(payload), 0
	b = append(b, encoded(h)...)
	b = append(b, payload...)
	return append(b, make([]byte, padded(len(payload))-len(payload))...)
}
