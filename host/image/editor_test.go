package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
)

// editor changes an image and then makes all checksums right again: what a
// hostile author can do.
type editor struct {
	tb    testing.TB
	b     []byte
	index *imagepb.Index
	at    uint64 // of the index block
}

func newEditor(tb testing.TB, b []byte) *editor {
	tb.Helper()
	i, err := open(bytes.NewReader(b), int64(len(b)), "x.firn")
	if err != nil {
		tb.Fatal(err)
	}
	body, err := i.readBlock(indexEntry{i.trailer.indexOffset, i.indexLength(), blockIndex, 0, 0})
	if err != nil {
		tb.Fatal(err)
	}
	e := &editor{tb: tb, b: bytes.Clone(b), index: &imagepb.Index{}, at: i.trailer.indexOffset}
	if err := proto.Unmarshal(body, e.index); err != nil {
		tb.Fatal(err)
	}
	return e
}

func (i *Image) indexLength() uint64 {
	b, err := i.read("index", i.trailer.indexOffset, headerSize)
	if err != nil {
		panic(err)
	}
	return binary.LittleEndian.Uint64(b[16:])
}

// find returns the bytes of the nth block of a type and its index entry.
func (e *editor) find(kind blockType, n int) ([]byte, *imagepb.Block) {
	for _, entry := range e.index.Blocks {
		if blockType(entry.Type) != kind {
			continue
		}
		if n == 0 {
			return e.b[entry.Offset : entry.Offset+blockSize(entry.Length)], entry
		}
		n--
	}
	e.tb.Fatalf("no %s block", kind)
	return nil, nil
}

// block seals the header of a block again, and its body's checksum.
func (e *editor) block(b []byte) {
	le := binary.LittleEndian
	length := le.Uint64(b[16:])
	switch kind := blockType(le.Uint16(b[4:])); {
	case kind == blockPadding:
	case kind == blockBulk:
		if n := headerSize + entrySize*uint64(le.Uint32(b[12:])); n <= uint64(len(b)) {
			le.PutUint32(b[32:], checksum(b[headerSize:n]))
		}
	case length <= uint64(len(b)-headerSize):
		le.PutUint32(b[32:], checksum(b[headerSize:headerSize+length]))
	}
	seal(b)
}

// records replaces the records of a block by others that take as much room.
func (e *editor) records(n int, change func(n int, h *hbuf.Header)) {
	b, entry := e.find(blockRecords, n)
	var packed []byte
	k := 0
	for r, err := range hbuf.Records(b[headerSize : headerSize+entry.Length]) {
		if err != nil {
			e.tb.Fatal(err)
		}
		change(k, &r.Header)
		packed = hbuf.AppendRecord(packed, r.Header, r.Payload)
		k++
	}
	if uint64(len(packed)) != entry.Length {
		e.tb.Fatalf("%d bytes of records became %d", entry.Length, len(packed))
	}
	copy(b[headerSize:], packed)
	e.block(b)
}

// finish writes the index and trailer anew.
func (e *editor) finish() []byte {
	e.tb.Helper()
	body, err := proto.Marshal(e.index)
	if err != nil {
		e.tb.Fatal(err)
	}
	return e.finishWith(body)
}

func (e *editor) finishWith(body []byte) []byte {
	id := binary.LittleEndian.Uint64(e.b[24:])
	h := blockHeader{kind: blockIndex, length: uint64(len(body)), crc: checksum(body), offset: e.at, id: id}
	out := bytes.Clone(e.b[:e.at])
	head := make([]byte, headerSize)
	h.encode(head)
	out = append(append(out, head...), body...)
	out = append(out, make([]byte, h.size()-headerSize-h.length)...)
	trailer{e.at, h.size(), uint64(len(out)) + headerSize, id, h.crc}.encode(head)
	return append(out, head...)
}

// TestInconsistentImages changes one thing at a time in an image whose
// checksums are all right.
func TestInconsistentImages(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	header := func(kind blockType, change func(b []byte, entry *imagepb.Block)) func(e *editor) {
		return func(e *editor) {
			b, entry := e.find(kind, 0)
			change(b, entry)
			e.block(b)
		}
	}
	tests := map[string]func(e *editor){
		// Blocks.
		"block of another image":     header(blockRecords, func(b []byte, _ *imagepb.Block) { b[48]++ }),
		"block of another place":     header(blockRecords, func(b []byte, _ *imagepb.Block) { b[41]++ }),
		"block number":               header(blockRecords, func(b []byte, _ *imagepb.Block) { b[24]++ }),
		"number of the manifest":     header(blockManifest, func(b []byte, _ *imagepb.Block) { b[24]++ }),
		"start in a records block":   header(blockRecords, func(b []byte, _ *imagepb.Block) { b[36]++ }),
		"zero field of a header":     header(blockRecords, func(b []byte, _ *imagepb.Block) { b[56]++ }),
		"count of records in header": header(blockRecords, func(b []byte, _ *imagepb.Block) { b[12]++ }),
		"count of records": header(blockRecords, func(b []byte, entry *imagepb.Block) {
			b[12]++
			entry.Count++
		}),
		"stream of records": header(blockRecords, func(b []byte, entry *imagepb.Block) {
			b[8]++
			entry.Stream++
		}),
		"stream that is not there": header(blockRecords, func(b []byte, entry *imagepb.Block) {
			b[8] = 200
			entry.Stream = 200
		}),
		"second stream block": header(blockRecords, func(b []byte, entry *imagepb.Block) {
			b[4], entry.Type = byte(blockStream), uint32(blockStream)
			le.PutUint32(b[12:], 0)
			entry.Count = 0
		}),
		"stream block of another name": func(e *editor) {
			b, _ := e.find(blockStream, 1)
			b[headerSize+2] ^= 1
			e.block(b)
		},
		"records without room": header(blockRecords, func(b []byte, _ *imagepb.Block) { le.PutUint32(b[12:], math.MaxUint32) }),
		"length over the file": header(blockRecords, func(b []byte, entry *imagepb.Block) {
			entry.Length = 1 << 25
			le.PutUint64(b[16:], entry.Length)
		}),
		"huge length": header(blockRecords, func(b []byte, entry *imagepb.Block) {
			entry.Length = math.MaxUint64 - 60
			le.PutUint64(b[16:], entry.Length)
		}),
		"padding with a checksum": header(blockPadding, func(b []byte, _ *imagepb.Block) { b[32]++ }),
		"padding that is not zero": func(e *editor) {
			b, _ := e.find(blockPadding, 0)
			b[len(b)-1]++
		},

		// Bulk blocks.
		"payload length":            header(blockBulk, func(b []byte, _ *imagepb.Block) { b[headerSize]++ }),
		"payload of no bytes":       header(blockBulk, func(b []byte, _ *imagepb.Block) { le.PutUint64(b[headerSize:], 0) }),
		"payload over the limit":    header(blockBulk, func(b []byte, _ *imagepb.Block) { le.PutUint64(b[headerSize:], maxRun+1) }),
		"huge payload":              header(blockBulk, func(b []byte, _ *imagepb.Block) { le.PutUint64(b[headerSize:], math.MaxUint64) }),
		"payload checksum":          header(blockBulk, func(b []byte, _ *imagepb.Block) { b[headerSize+8]++ }),
		"zero field of a table":     header(blockBulk, func(b []byte, _ *imagepb.Block) { b[headerSize+12]++ }),
		"payload that is unaligned": header(blockBulk, func(b []byte, _ *imagepb.Block) { b[36] -= 64 }),
		"payload in the table":      header(blockBulk, func(b []byte, _ *imagepb.Block) { le.PutUint32(b[36:], headerSize) }),
		"payload behind the block":  header(blockBulk, func(b []byte, _ *imagepb.Block) { le.PutUint32(b[36:], 1<<30) }),
		"one payload too few": header(blockBulk, func(b []byte, entry *imagepb.Block) {
			b[12]--
			entry.Count--
		}),
		"bytes behind the table": header(blockBulk, func(b []byte, _ *imagepb.Block) { b[le.Uint32(b[36:])-1] = 1 }),

		// Records.
		"gap in the numbers":          func(e *editor) { e.records(0, func(n int, h *hbuf.Header) { h.Seq += uint64(n / 2) }) },
		"numbers that start late":     func(e *editor) { e.records(0, func(_ int, h *hbuf.Header) { h.Seq++ }) },
		"numbers that wrap":           func(e *editor) { e.records(0, func(_ int, h *hbuf.Header) { h.Seq -= 2 }) },
		"numbers of the second block": func(e *editor) { e.records(1, func(_ int, h *hbuf.Header) { h.Seq += 5 }) },
		"reference to another place":  func(e *editor) { e.bulk(func(h *hbuf.Header) { h.Bulk += 4096 }) },
		"reference to no page":        func(e *editor) { e.bulk(func(h *hbuf.Header) { h.Bulk++ }) },
		"reference behind the file":   func(e *editor) { e.bulk(func(h *hbuf.Header) { h.Bulk = math.MaxUint64 &^ 4095 }) },
		"reference to nothing":        func(e *editor) { e.bulk(func(h *hbuf.Header) { h.Bulk = 0 }) },
		"reference of another length": func(e *editor) { e.bulk(func(h *hbuf.Header) { h.Length-- }) },
		"reference of another sum":    func(e *editor) { e.bulk(func(h *hbuf.Header) { h.CRC++ }) },
		"flag of the arena":           func(e *editor) { e.bulk(func(h *hbuf.Header) { h.Flags |= hbuf.FlagUnsummed; h.CRC = 0 }) },
		"two references to one payload": func(e *editor) {
			var first *hbuf.Header
			e.bulk(func(h *hbuf.Header) {
				if first == nil {
					first = &hbuf.Header{}
					*first = *h
					return
				}
				h.Bulk, h.Length, h.CRC = first.Bulk, first.Length, first.CRC
			})
		},

		// Index.
		"block that is missing":   func(e *editor) { e.index.Blocks = append(e.index.Blocks[:4:4], e.index.Blocks[5:]...) },
		"blocks in another order": func(e *editor) { x := e.index.Blocks; x[5], x[6] = x[6], x[5] },
		"block twice":             func(e *editor) { e.index.Blocks = append(e.index.Blocks, e.index.Blocks[3]) },
		"no blocks":               func(e *editor) { e.index.Blocks = nil },
		"no streams":              func(e *editor) { e.index.Streams = nil },
		"last block is missing":   func(e *editor) { e.index.Blocks = e.index.Blocks[:len(e.index.Blocks)-1] },
		"type of a block":         func(e *editor) { e.index.Blocks[5].Type = 9 },
		"type over 16 bits":       func(e *editor) { e.index.Blocks[5].Type += 1 << 16 },
		"second manifest":         func(e *editor) { e.index.Blocks[1].Type, e.index.Blocks[1].Stream = 1, 0 },
		"no manifest":             func(e *editor) { e.index.Blocks[0].Type = uint32(blockPadding) },
		"length in the index":     func(e *editor) { e.index.Blocks[3].Length++ },
		"number of a stream":      func(e *editor) { e.index.Streams[1].Number++ },
		"name of a stream":        func(e *editor) { e.index.Streams[1].Name = "xx" },
		"name of two streams":     func(e *editor) { e.index.Streams[1].Name = e.index.Streams[2].Name },
		"name that no plugin has": func(e *editor) { e.index.Streams[1].Name = "../x" },
		"first stream":            func(e *editor) { e.index.Streams[0].Name = "fern" },
		"number of blocks":        func(e *editor) { e.index.Streams[1].Blocks++ },
		"number of records":       func(e *editor) { e.index.Streams[1].Records++ },
		"bytes of records":        func(e *editor) { e.index.Streams[1].RecordBytes++ },
		"number of bulk payloads": func(e *editor) { e.index.Streams[1].Bulks++ },
		"bytes of bulk payloads":  func(e *editor) { e.index.Streams[1].BulkBytes++ },
		"stream without stream block": func(e *editor) {
			e.index.Streams = append(e.index.Streams, &imagepb.Stream{Number: uint32(len(e.index.Streams) + 1), Name: "more"})
		},

		// Manifest.
		"manifest of another page size": manifestEdit(func(m *imagepb.Manifest) { m.PageSize = 8192 }),
		"manifest of another machine":   manifestEdit(func(m *imagepb.Manifest) { m.Arch = "arm64" }),
		"plugin without a stream":       manifestEdit(func(m *imagepb.Manifest) { m.Plugins[0].Name = "nn" }),
		"plugin twice":                  manifestEdit(func(m *imagepb.Manifest) { m.Plugins[1] = proto.CloneOf(m.Plugins[0]) }),
		"plugin that is the host":       manifestEdit(func(m *imagepb.Manifest) { m.Plugins[0].Name = HostStream }),
	}
	image := largeImage(t)
	if err := verifyBytes(newEditor(t, image).finish()); err != nil {
		t.Fatalf("editor damages the image: %v", err)
	}
	for name, edit := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEditor(t, image)
			edit(e)
			err := verifyBytes(e.finish())
			if !errors.Is(err, sdk.ErrCorrupt) {
				t.Errorf("error is %v", err)
			}
			t.Log(err)
		})
	}
}

// TestManyElements: elements of two bytes must not take memory. Not parallel:
// it counts the memory of the whole process.
func TestManyElements(t *testing.T) {
	image := smallImage(t)
	for name, element := range map[string][]byte{"blocks": {0x0a, 0}, "streams": {0x12, 0}} {
		b := newEditor(t, image).finishWith(bytes.Repeat(element, 1<<20))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := verifyBytes(b)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, sdk.ErrCorrupt) || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: error is %v", name, err)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
			t.Errorf("%s: %d bytes of memory for an image of %d", name, grown, len(b))
		}
	}
}

// bulk changes every bulk record of the first stream that has some.
func (e *editor) bulk(change func(h *hbuf.Header)) {
	n := 0
	e.records(0, func(_ int, h *hbuf.Header) {
		if h.IsBulk() {
			n++
			change(h)
		}
	})
	if n < 2 {
		e.tb.Fatal("too few bulk records")
	}
}

// manifestEdit replaces the manifest by one that takes as much room or less.
func manifestEdit(change func(m *imagepb.Manifest)) func(e *editor) {
	return func(e *editor) {
		b, entry := e.find(blockManifest, 0)
		m := &imagepb.Manifest{}
		if err := proto.Unmarshal(b[headerSize:headerSize+entry.Length], m); err != nil {
			e.tb.Fatal(err)
		}
		change(m)
		body, err := proto.Marshal(m)
		if err != nil {
			e.tb.Fatal(err)
		}
		if alignUp(uint64(len(body)), 64) != alignUp(entry.Length, 64) {
			body = append(body, 0xda, 0x0c, byte(entry.Length)-byte(len(body))-3) // an unknown field of bytes
			body = append(body, make([]byte, body[len(body)-1])...)
		}
		clear(b[headerSize:])
		copy(b[headerSize:], body)
		entry.Length = uint64(len(body))
		binary.LittleEndian.PutUint64(b[16:], entry.Length)
		e.block(b)
	}
}
