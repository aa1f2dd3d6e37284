package hbuf

import (
	"fmt"
	"iter"
)

// Record is one record of a packed segment.
type Record struct {
	Header
	// Payload lies in the packed segment. It is nil for a bulk record.
	Payload []byte
}

// Records yields the records of a packed segment in order, each checked
// against its checksums. An error, which is [ErrCorrupt] and names the offset
// in the segment, ends the sequence. Payloads of bulk records are not looked
// at.
func Records(packed []byte) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for off := 0; off < len(packed); {
			var r Record
			n, err := r.decode(packed[off:])
			if err != nil {
				yield(Record{}, fmt.Errorf("record at offset %d: %w", off, err))
				return
			}
			if !yield(r, nil) {
				return
			}
			off += n
		}
	}
}

// AppendRecord appends a record to a packed segment; it fills in Length and
// CRC. A bulk record (whose payload must be nil) is appended as its header is.
func AppendRecord(packed []byte, h Header, payload []byte) []byte {
	if !h.IsBulk() {
		h.Length, h.CRC = uint64(len(payload)), Checksum(payload)
	}
	start := len(packed)
	packed = append(packed, make([]byte, h.stored())...)
	h.Encode(packed[start:])
	copy(packed[start+HeaderSize:], payload)
	return packed
}

// decode reads the first record of b and tells how many bytes it takes.
func (r *Record) decode(b []byte) (n int, err error) {
	r.Payload = nil
	if err := r.Header.decode(b); err != nil {
		return 0, err
	}
	if r.IsBulk() {
		return HeaderSize, nil
	}
	r.Payload, n, err = inlinePayload(&r.Header, b)
	return n, err
}

// inlinePayload checks and returns the payload that follows the header h at the
// beginning of b, and the number of bytes of the whole record.
func inlinePayload(h *Header, b []byte) ([]byte, int, error) {
	size, total := int(h.Length), HeaderSize+padded(int(h.Length))
	if len(b) < total {
		return nil, 0, fmt.Errorf("payload of %d bytes in %d: %w", size, len(b)-HeaderSize, ErrCorrupt)
	}
	payload := b[HeaderSize : HeaderSize+size : HeaderSize+size]
	if Checksum(payload) != h.CRC {
		return nil, 0, fmt.Errorf("wrong checksum of a payload of %d bytes: %w", size, ErrCorrupt)
	}
	var set byte
	for _, pad := range b[HeaderSize+size : total] {
		set |= pad
	}
	if set != 0 {
		return nil, 0, fmt.Errorf("padding is not zero: %w", ErrCorrupt)
	}
	return payload, total, nil
}
