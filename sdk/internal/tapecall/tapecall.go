// Package tapecall packs the calls of a tape for the wire.
//
// A call has 64 bytes, little endian:
//
//	 0  u32     number of the system call
//	 4  u32     flags: bit 0 an error is allowed
//	            bits 8+2i and 9+2i the kind of argument i
//	            (0 constant, 1 offset of the data area, 2 result of a call)
//	 8  6 u64   arguments
//	56  u64     zero
package tapecall

import (
	"encoding/binary"
	"fmt"

	"github.com/firn-cr/firn/sdk/internal/sentinel"
	"github.com/firn-cr/firn/sdk/tape"
)

// Size is the length of a packed call in bytes.
const Size = 64

const (
	flagAllowError = 1
	kindShift      = 8
	kindMask       = 3
	knownFlags     = flagAllowError | 0xfff<<kindShift
)

// Pack returns the packed form of the calls.
func Pack(calls []tape.Call) []byte {
	out := make([]byte, len(calls)*Size)
	for i := range calls {
		packOne(out[i*Size:], &calls[i])
	}
	return out
}

func packOne(b []byte, c *tape.Call) {
	var flags uint32
	if c.AllowError {
		flags = flagAllowError
	}
	for i, a := range c.Args {
		flags |= uint32(a.Kind&kindMask) << (kindShift + 2*i)
		binary.LittleEndian.PutUint64(b[8+8*i:], a.Value)
	}
	binary.LittleEndian.PutUint32(b, uint32(c.Nr))
	binary.LittleEndian.PutUint32(b[4:], flags)
}

// Unpack checks and unpacks calls. dataLen is the length of the tape's data
// area: an argument that points outside of it, or to a call that is not
// earlier, is an error. So is everything that Pack would not write.
func Unpack(b []byte, dataLen int) ([]tape.Call, error) {
	if len(b)%Size != 0 {
		return nil, fmt.Errorf("tape of %d bytes, want a multiple of %d: %w", len(b), Size, sentinel.ErrCorrupt)
	}
	n := len(b) / Size
	if n > tape.MaxEntries || dataLen > tape.MaxData {
		return nil, fmt.Errorf("tape of %d calls with %d bytes of data, limits are %d and %d: %w",
			n, dataLen, tape.MaxEntries, tape.MaxData, sentinel.ErrCorrupt)
	}
	calls := make([]tape.Call, n)
	for i := range calls {
		if err := unpackOne(&calls[i], b[i*Size:(i+1)*Size], i, dataLen); err != nil {
			return nil, fmt.Errorf("tape call %d: %w: %w", i, err, sentinel.ErrCorrupt)
		}
	}
	return calls, nil
}

func unpackOne(c *tape.Call, b []byte, index, dataLen int) error {
	flags := binary.LittleEndian.Uint32(b[4:])
	if flags&^uint32(knownFlags) != 0 || binary.LittleEndian.Uint64(b[56:]) != 0 {
		return fmt.Errorf("reserved bits are set (flags %#x)", flags)
	}
	c.Nr = int(binary.LittleEndian.Uint32(b))
	c.AllowError = flags&flagAllowError != 0
	for i := range c.Args {
		a := tape.Arg{
			Kind:  tape.ArgKind(flags >> (kindShift + 2*i) & kindMask),
			Value: binary.LittleEndian.Uint64(b[8+8*i:]),
		}
		switch a.Kind {
		case tape.ArgConst:
		case tape.ArgData:
			if a.Value > uint64(dataLen) {
				return fmt.Errorf("argument %d points to byte %d of a data area of %d", i, a.Value, dataLen)
			}
		case tape.ArgResult:
			if a.Value >= uint64(index) {
				return fmt.Errorf("argument %d is the result of call %d, which is not earlier", i, a.Value)
			}
		default:
			return fmt.Errorf("argument %d has unknown kind %d", i, a.Kind)
		}
		c.Args[i] = a
	}
	return nil
}
