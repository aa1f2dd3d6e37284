package procfs

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrFormat is the error of every parser: the file does not look as the kernel
// writes it.
var ErrFormat = errors.New("unexpected format")

// malformed makes the error of every parser of this package.
func malformed(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrFormat)...)
}

// cutLine splits b after its first line, which is returned without newline.
func cutLine(b []byte) (line, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// fields takes a line apart from left to right. After the first thing that is
// not as expected bad is set and every answer is zero.
type fields struct {
	rest []byte
	bad  bool
}

// upTo returns what comes before sep and skips it.
func (f *fields) upTo(sep byte) []byte {
	i := bytes.IndexByte(f.rest, sep)
	if i < 0 {
		f.bad, f.rest = true, nil
		return nil
	}
	tok := f.rest[:i]
	f.rest = f.rest[i+1:]
	return tok
}

// hex reads a hexadecimal number that ends with sep.
func (f *fields) hex(sep byte) uint64 { return f.number(sep, 16) }

// decimal reads a decimal number that ends with sep or with the line.
func (f *fields) decimal(sep byte) uint64 {
	if bytes.IndexByte(f.rest, sep) < 0 {
		v, ok := parseUint(f.rest, 10)
		f.bad, f.rest = f.bad || !ok, nil
		return v
	}
	return f.number(sep, 10)
}

func (f *fields) number(sep byte, base uint64) uint64 {
	v, ok := parseUint(f.upTo(sep), base)
	if !ok || f.bad {
		f.bad = true
		return 0
	}
	return v
}

// parseUint is strconv.ParseUint over bytes, without signs and prefixes.
func parseUint(b []byte, base uint64) (uint64, bool) {
	if len(b) == 0 {
		return 0, false
	}
	var v uint64
	for _, c := range b {
		d := uint64(99)
		switch {
		case c >= '0' && c <= '9':
			d = uint64(c - '0')
		case c >= 'a' && c <= 'f':
			d = uint64(c-'a') + 10
		}
		if d >= base || v > (1<<64-1-d)/base {
			return 0, false
		}
		v = v*base + d
	}
	return v, true
}
