package dispatch

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/wire"
)

// errNoSink: a plugin emitted a record when none was expected.
var errNoSink = errors.New("no records are taken now")

// lateSink is a sink that is known only when the image is created, which is
// after the plugin's start. It takes records of declared kinds only.
type lateSink struct {
	to       atomic.Pointer[hbuf.Sink]
	versions map[uint32]uint16 // declared, by kind; set before the first record
}

var (
	_ hbuf.Sink       = (*lateSink)(nil)
	_ hbuf.BulkSummer = (*lateSink)(nil)
)

func (l *lateSink) declare(info *wire.Info) {
	l.versions = make(map[uint32]uint16, len(info.Records))
	for _, r := range info.Records {
		l.versions[r.Kind] = r.Version
	}
}

// WriteRecords implements hbuf.Sink.
func (l *lateSink) WriteRecords(packed []byte, count int) error {
	s := l.to.Load()
	if s == nil {
		return errNoSink
	}
	if err := l.check(packed); err != nil {
		return err
	}
	return (*s).WriteRecords(packed, count)
}

// check looks at the kinds and versions of packed records, whose checksums
// were verified.
func (l *lateSink) check(packed []byte) error {
	for len(packed) > 0 {
		h, err := hbuf.DecodeHeader(packed)
		if err != nil {
			return err
		}
		declared, ok := l.versions[h.Kind]
		if !ok || h.Version > declared {
			return fmt.Errorf("record kind %d version %d of object %d is not declared: %w", h.Kind, h.Version, h.Object, hbuf.ErrProtocol)
		}
		size := hbuf.HeaderSize
		if !h.IsBulk() {
			size += (int(h.Length) + hbuf.Align - 1) &^ (hbuf.Align - 1)
		}
		packed = packed[min(size, len(packed)):]
	}
	return nil
}

// WriteBulk implements hbuf.Sink.
func (l *lateSink) WriteBulk(data []byte) (uint64, error) {
	if s := l.to.Load(); s != nil {
		return (*s).WriteBulk(data)
	}
	return 0, errNoSink
}

// WriteBulkSum implements hbuf.BulkSummer.
func (l *lateSink) WriteBulkSum(data []byte) (uint64, uint32, error) {
	s := l.to.Load()
	if s == nil {
		return 0, 0, errNoSink
	}
	if summer, ok := (*s).(hbuf.BulkSummer); ok {
		return summer.WriteBulkSum(data)
	}
	sum := hbuf.Checksum(data)
	offset, err := (*s).WriteBulk(data)
	return offset, sum, err
}
