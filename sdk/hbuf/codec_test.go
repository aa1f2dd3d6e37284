package hbuf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// encoded returns the bytes of a header.
func encoded(h Header) []byte {
	b := make([]byte, HeaderSize)
	h.Encode(b)
	return b
}

// resum sets the checksum of an encoded header that was changed.
func resum(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[60:], Checksum(b[:60]))
	return b
}

var sample = Header{Kind: 0x01020304, Version: 5, Object: 0x0102030405060708, Length: 77, CRC: 0xdeadbeef, Seq: 1 << 40}

func TestHeaderBytes(t *testing.T) {
	h := sample
	h.Flags, h.Bulk = FlagBulk, 0x1122334455667788
	want := []byte{
		'F', 'R', 'E', 'C', 1, 0, 1, 0, 4, 3, 2, 1, 5, 0, 0, 0,
		8, 7, 6, 5, 4, 3, 2, 1, 77, 0, 0, 0, 0, 0, 0, 0,
		0xef, 0xbe, 0xad, 0xde, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
		0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, 0, 0, 0, 0,
	}
	resum(want)
	if got := encoded(h); !bytes.Equal(got, want) {
		t.Errorf("header is\n% x, want\n% x", got, want)
	}
	got, err := DecodeHeader(want)
	if err != nil || got != h {
		t.Errorf("decoded %+v, %v; want %+v", got, err, h)
	}
}

func TestHeaderErrors(t *testing.T) {
	change := func(h Header, at int, to byte) []byte {
		b := encoded(h)
		b[at] = to
		return resum(b)
	}
	bulk := Header{Flags: FlagBulk, Length: 1}
	for name, b := range map[string][]byte{
		"empty":             nil,
		"short":             encoded(sample)[:63],
		"magic":             change(sample, 0, 'f'),
		"header version":    change(sample, 4, 2),
		"unknown flag":      change(sample, 6, 4),
		"unknown high flag": change(sample, 7, 0x80),
		"reserved 14":       change(sample, 14, 1),
		"reserved 15":       change(sample, 15, 1),
		"reserved 36":       change(sample, 36, 1),
		"reserved 39":       change(sample, 39, 1),
		"reserved 56":       change(sample, 56, 1),
		"reserved 59":       change(sample, 59, 1),
		"reference":         encoded(Header{Bulk: 1}),
		"unsummed":          encoded(Header{Flags: FlagUnsummed}),
		"summed unsummed":   encoded(Header{Flags: FlagBulk | FlagUnsummed, Length: 1, CRC: 1}),
		"too long":          encoded(Header{Length: MaxRecord + 1}),
		"huge":              encoded(Header{Length: 1 << 63}),
		"bulk too long":     encoded(Header{Flags: FlagBulk, Length: MaxBulk + 1}),
		"empty bulk":        encoded(Header{Flags: FlagBulk}),
		"checksum":          append(encoded(bulk)[:63], 0),
	} {
		if _, err := DecodeHeader(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v, want ErrCorrupt", name, err)
		}
	}
	if _, err := DecodeHeader(encoded(bulk)); err != nil {
		t.Error(err)
	}
}

// packedSample is a segment of three records; the second is a bulk record.
func packedSample() []byte {
	b := AppendRecord(nil, Header{Kind: 1, Version: 1, Seq: 7}, []byte("hello"))
	b = AppendRecord(b, Header{Flags: FlagBulk, Kind: 2, Seq: 8, Length: 4097, CRC: 9, Bulk: 1 << 20}, nil)
	return AppendRecord(b, Header{Kind: 3, Seq: 9}, bytes.Repeat([]byte{3}, Align))
}

func TestRecords(t *testing.T) {
	var kinds []uint32
	for r, err := range Records(packedSample()) {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, r.Kind)
		switch {
		case r.Kind == 1 && string(r.Payload) != "hello", r.IsBulk() && r.Payload != nil, r.Kind == 3 && len(r.Payload) != Align:
			t.Errorf("record of kind %d has the payload %q", r.Kind, r.Payload)
		}
		if r.Kind == 2 && !r.IsBulk() {
			t.Error("bulk record is none")
		}
	}
	if len(kinds) != 3 {
		t.Errorf("kinds %v", kinds)
	}
	for range Records(packedSample()) {
		break // the iterator must not go on
	}
}

func TestRecordsDamaged(t *testing.T) {
	whole := packedSample()
	for n := 1; n < len(whole); n++ {
		if _, err := count(whole[:n]); err == nil && n != 2*Align && n != 3*Align {
			t.Errorf("a segment that was cut to %d bytes is taken as whole", n)
		}
	}
	for at := range whole {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0x10
		if _, err := count(damaged); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d was changed: error %v, want ErrCorrupt", at, err)
		}
	}
}

// count counts the records of a segment.
func count(packed []byte) (n int, err error) {
	for _, err := range Records(packed) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func FuzzHeader(f *testing.F) {
	f.Add(encoded(sample))
	f.Add(encoded(Header{Flags: FlagBulk, Length: MaxBulk, Bulk: 1 << 40}))
	f.Add(make([]byte, HeaderSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= HeaderSize {
			resum(b) // reach what is behind the checksum
		}
		h, err := DecodeHeader(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
			return
		}
		if got := encoded(h); !bytes.Equal(got, b[:HeaderSize]) {
			t.Errorf("% x became % x", b[:HeaderSize], got)
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add(packedSample())
	f.Add(packedSample()[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		for at := 0; at+HeaderSize <= len(b); at += Align {
			if string(b[at:at+4]) == "FREC" {
				resum(b[at : at+HeaderSize]) // reach what is behind the checksum
			}
		}
		var again []byte
		for r, err := range Records(b) {
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Errorf("error %v, want ErrCorrupt", err)
				}
				return
			}
			again = AppendRecord(again, r.Header, r.Payload)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("% x became % x", b, again)
		}
	})
}
