package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// What follows is a reader that was written from docs/image-format.md alone:
// it uses nothing of this package, nor the generated messages. It goes front to
// back as if the image came from a pipe, and then compares with the index.

var (
	u16 = binary.LittleEndian.Uint16
	u32 = binary.LittleEndian.Uint32
	u64 = binary.LittleEndian.Uint64
)

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(0x82F63B78)) }

func align(n, a uint64) uint64 { return (n + a - 1) / a * a }

type docPayload struct {
	data   []byte
	stream uint32
	crc    uint32
	used   bool
}

type docRecord struct {
	kind, crc uint32
	version   uint16
	object    uint64
	bulk      uint64
	payload   []byte
}

type docReader struct {
	file     []byte
	page, id uint64
	names    map[uint32]string
	next     map[uint32]uint64 // block of each stream
	records  map[uint32][]docRecord
	payloads map[uint64]*docPayload
	blocks   [][]uint64 // offset, length, type, stream, count
	manifest []byte
	index    []byte
}

func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func (r *docReader) read() error {
	h := r.file[:64]
	r.page, r.id = uint64(u32(h[16:])), u64(h[24:])
	if err := errors.Join(
		check(string(h[:8]) == "\x89FIRN\r\n\x1a", "magic"),
		check(u32(h[8:]) == 1 && u32(h[12:]) == 0, "version"),
		check(r.page >= 4096 && r.page <= 65536 && r.page&(r.page-1) == 0, "page size"),
		check(allZero(h[32:60]) && u32(h[60:]) == crc(h[:60]), "header checksum"),
	); err != nil {
		return err
	}
	off := uint64(64)
	for r.index == nil {
		size, err := r.block(off)
		if err != nil {
			return fmt.Errorf("block at %d: %w", off, err)
		}
		off += size
	}
	t := r.file[off:]
	last := r.blocks[len(r.blocks)-1]
	r.blocks = r.blocks[:len(r.blocks)-1]
	return errors.Join(
		check(len(t) == 64 && string(t[:8]) == "FIRNEND\n", "trailer magic"),
		check(u64(t[8:]) == last[0] && u64(t[16:]) == off-last[0], "trailer index"),
		check(u64(t[24:]) == uint64(len(r.file)) && u64(t[32:]) == r.id && u32(t[40:]) == crc(r.index), "trailer"),
		check(allZero(t[44:60]) && u32(t[60:]) == crc(t[:60]), "trailer checksum"),
		r.checkBulk(), r.checkIndex(),
	)
}

func (r *docReader) block(off uint64) (uint64, error) {
	h := r.file[off : off+64]
	typ, stream, count, length := u16(h[4:]), u32(h[8:]), u32(h[12:]), u64(h[16:])
	size := align(64+length, 64)
	body := r.file[off+64 : off+64+length]
	sum := u32(h[32:])
	if err := errors.Join(
		check(string(h[:4]) == "FBLK" && u16(h[6:]) == 0 && u32(h[56:]) == 0, "header"),
		check(u32(h[60:]) == crc(h[:60]), "header checksum"),
		check(u64(h[40:]) == off && u64(h[48:]) == r.id, "place"),
		check(stream == 0 && u64(h[24:]) == 0 || stream != 0 && u64(h[24:]) == r.next[stream], "sequence"),
		check(typ == 4 || u32(h[36:]) == 0, "start"),
		check(typ == 4 || typ == 5 || sum == crc(body), "checksum"),
		check(allZero(r.file[off+64+length:off+size]), "padding"),
	); err != nil {
		return 0, err
	}
	r.next[stream]++
	r.blocks = append(r.blocks, []uint64{off, length, uint64(typ), uint64(stream), uint64(count)})
	var err error
	switch typ {
	case 1:
		r.manifest = body
		err = check(off == 64, "manifest is not first")
	case 2:
		r.names[stream] = string(fields(body)[1][0].([]byte))
	case 3:
		err = r.packed(stream, count, body)
	case 4:
		err = r.bulk(stream, count, off, uint64(u32(h[36:])), length, sum)
	case 5:
		err = check(allZero(body) && sum == 0, "padding is not zero")
	case 6:
		r.index = body
	default:
		err = fmt.Errorf("type %d", typ)
	}
	return size, err
}

func (r *docReader) packed(stream, count uint32, body []byte) error {
	for ; len(body) > 0; count-- {
		h := body[:64]
		rec := docRecord{kind: u32(h[8:]), version: u16(h[12:]), object: u64(h[16:]), crc: u32(h[32:])}
		length, size := u64(h[24:]), uint64(64)
		err := errors.Join(
			check(string(h[:4]) == "FREC" && u16(h[4:]) == 1 && u16(h[14:]) == 0, "record"),
			check(u32(h[36:]) == 0 && u32(h[56:]) == 0 && u32(h[60:]) == crc(h[:60]), "record header"),
			check(u64(h[40:]) == uint64(len(r.records[stream])), "record number"),
		)
		if flags := u16(h[6:]); flags == 1 {
			rec.bulk = u64(h[48:])
		} else {
			size = align(64+length, 64)
			rec.payload = body[64 : 64+length]
			err = errors.Join(err, check(flags == 0 && u64(h[48:]) == 0, "record flags"),
				check(crc(rec.payload) == rec.crc && allZero(body[64+length:size]), "payload"))
		}
		if err != nil {
			return err
		}
		r.records[stream] = append(r.records[stream], rec)
		body = body[size:]
	}
	return check(count == 0, "count of records")
}

func (r *docReader) bulk(stream, count uint32, off, start, length uint64, sum uint32) error {
	table := r.file[off+64 : off+64+16*uint64(count)]
	if err := errors.Join(check(crc(table) == sum, "table"), check(allZero(r.file[off+64+uint64(len(table)):off+start]), "zeros")); err != nil {
		return err
	}
	pos := off + start
	for ; len(table) > 0; table = table[16:] {
		n := u64(table)
		p := &docPayload{data: r.file[pos : pos+n], stream: stream, crc: u32(table[8:])}
		if err := errors.Join(
			check(pos%r.page == 0 && u32(table[12:]) == 0, "place of payload"),
			check(crc(p.data) == p.crc && allZero(r.file[pos+n:align(pos+n, r.page)]), "payload"),
		); err != nil {
			return err
		}
		r.payloads[pos] = p
		pos = align(pos+n, r.page)
	}
	return check(pos == off+64+length, "end of bulk block")
}

// checkBulk joins bulk records and payloads.
func (r *docReader) checkBulk() error {
	for stream, records := range r.records {
		for n, rec := range records {
			if rec.bulk == 0 {
				continue
			}
			p := r.payloads[rec.bulk]
			if p == nil || p.used || p.stream != stream || p.crc != rec.crc {
				return fmt.Errorf("record %d of stream %d has no payload", n, stream)
			}
			p.used = true
			r.records[stream][n].payload = p.data
		}
	}
	for off, p := range r.payloads {
		if !p.used {
			return fmt.Errorf("payload at %d has no record", off)
		}
	}
	return nil
}

// checkIndex compares the index with what was found.
func (r *docReader) checkIndex() error {
	index := fields(r.index)
	if len(index[1]) != len(r.blocks) || len(index[2]) != len(r.names) {
		return fmt.Errorf("index has %d blocks and %d streams", len(index[1]), len(index[2]))
	}
	for n, b := range index[1] {
		f := fields(b.([]byte))
		for k, want := range r.blocks[n] {
			if number(f, k+1) != want {
				return fmt.Errorf("block %d: field %d is %d, want %d", n, k+1, number(f, k+1), want)
			}
		}
	}
	for n, s := range index[2] {
		f, stream := fields(s.([]byte)), uint32(n+1)
		if number(f, 1) != uint64(stream) || string(f[2][0].([]byte)) != r.names[stream] ||
			number(f, 3) != r.next[stream] || number(f, 4) != uint64(len(r.records[stream])) {
			return fmt.Errorf("stream %d", stream)
		}
	}
	return nil
}

// fields decodes a protobuf message of numbers and byte strings.
func fields(b []byte) map[int][]any {
	f := map[int][]any{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		b = b[n:]
		var v any
		if typ == protowire.VarintType {
			v, n = protowire.ConsumeVarint(b)
		} else {
			v, n = protowire.ConsumeBytes(b)
		}
		b = b[n:]
		f[int(num)] = append(f[int(num)], v)
	}
	return f
}

func number(f map[int][]any, n int) uint64 {
	if len(f[n]) == 0 {
		return 0
	}
	return f[n][0].(uint64)
}

// TestIndependentReader reads what a Writer wrote by the document.
func TestIndependentReader(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"file", "pipe"} {
		path := filepath.Join(t.TempDir(), "x.firn")
		var pipe bytes.Buffer
		w, err := Create(path, testManifest())
		if kind == "pipe" {
			w.Abort()
			w, err = NewWriter(&pipe, testManifest())
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHostRecords(hostFixture()); err != nil {
			t.Fatal(err)
		}
		feeders := fill(t, w, 25)
		if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
			t.Fatal(err)
		}
		b := pipe.Bytes()
		if kind == "file" {
			if b, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
		r := &docReader{
			file: b, names: map[uint32]string{}, next: map[uint32]uint64{},
			records: map[uint32][]docRecord{}, payloads: map[uint64]*docPayload{},
		}
		if err := r.read(); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		m := fields(r.manifest)
		if string(m[2][0].([]byte)) != "0.1.0" || len(m[7]) != 2 || r.names[1] != "firn" || len(r.records[1]) != 7 {
			t.Errorf("%s: manifest or host's records", kind)
		}
		for stream, name := range map[uint32]string{2: "mm", 3: "files"} {
			compareByDocument(t, r, stream, name, feeders[name])
		}
	}
}

func compareByDocument(t *testing.T, r *docReader, stream uint32, name string, f *feeder) {
	t.Helper()
	got := r.records[stream]
	if r.names[stream] != name || len(got) != len(f.want) {
		t.Fatalf("stream %d: %s with %d records, want %s with %d", stream, r.names[stream], len(got), name, len(f.want))
	}
	for n, want := range f.want {
		payload := want.Payload
		if want.Bulk {
			payload = f.bulk[want.BulkOffset]
		}
		g := got[n]
		if g.kind != want.Kind || g.version != want.Version || g.object != want.Object || !bytes.Equal(g.payload, payload) {
			t.Errorf("record %d of %s differs", n, name)
		}
	}
}
