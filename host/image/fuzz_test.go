package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
)

// sealed gives 64 bytes whose checksum is right, so that the fuzzer gets past
// it.
func sealed(b []byte) []byte {
	s := make([]byte, headerSize)
	copy(s, b)
	seal(s)
	return s
}

func FuzzFileHeader(f *testing.F) {
	f.Add(smallImage(f)[:headerSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeFileHeader(b)
		b = sealed(b)
		h, err := decodeFileHeader(b)
		if err != nil {
			return
		}
		again := make([]byte, headerSize)
		if h.encode(again); !bytes.Equal(b, again) {
			t.Errorf("%x was encoded as %x", b, again)
		}
	})
}

func FuzzBlockHeader(f *testing.F) {
	b := largeImage(f)
	for _, entry := range newEditor(f, b).index.Blocks {
		f.Add(b[entry.Offset : entry.Offset+headerSize])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeBlockHeader(b)
		b = sealed(b)
		h, err := decodeBlockHeader(b)
		if err != nil {
			return
		}
		again := make([]byte, headerSize)
		if h.encode(again); !bytes.Equal(b, again) {
			t.Errorf("%x was encoded as %x", b, again)
		}
	})
}

func FuzzTrailer(f *testing.F) {
	b := smallImage(f)
	f.Add(b[len(b)-headerSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeTrailer(b)
		b = sealed(b)
		tr, err := decodeTrailer(b)
		if err != nil {
			return
		}
		again := make([]byte, headerSize)
		if tr.encode(again); !bytes.Equal(b, again) {
			t.Errorf("%x was encoded as %x", b, again)
		}
	})
}

// FuzzIndex puts the bytes into an image as its index.
func FuzzIndex(f *testing.F) {
	image := smallImage(f)
	body, err := proto.Marshal(newEditor(f, image).index)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		b := newEditor(t, image).finishWith(body)
		if err := verifyBytes(b); err != nil {
			mustBeExplained(t, err)
		}
	})
}

// FuzzManifest puts the bytes into an image as its manifest.
func FuzzManifest(f *testing.F) {
	body, err := proto.Marshal(&imagepb.Manifest{Arch: "amd64", PageSize: 4096, Plugins: []*imagepb.Plugin{{Name: "mm"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		b := imageWith(t, body, []byte("\n\x04firn"))
		if err := verifyBytes(b); err != nil {
			mustBeExplained(t, err)
		}
	})
}

// FuzzDescriptors uses the bytes as the host's stream block, which has the
// descriptors of its records.
func FuzzDescriptors(f *testing.F) {
	manifest, err := proto.Marshal(&imagepb.Manifest{Arch: "amd64", PageSize: 4096})
	if err != nil {
		f.Fatal(err)
	}
	host := hostPlugin()
	body, err := proto.Marshal(&imagepb.StreamStart{Name: HostStream, Records: host.Records, Descriptors: host.Descriptors})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body, []byte{8, 1})
	f.Fuzz(func(t *testing.T, body, payload []byte) {
		b := imageWith(t, manifest, body)
		i, err := open(bytes.NewReader(b), int64(len(b)), "x.firn")
		if err != nil {
			mustBeExplained(t, err)
			return
		}
		for kind := range uint32(5) {
			_, _, _ = i.Describe(HostStream, sdk.Record{Kind: kind, Payload: payload})
		}
	})
}

// imageWith is an image of a manifest and the host's stream block.
func imageWith(tb testing.TB, manifest, start []byte) []byte {
	b := make([]byte, headerSize)
	fileHeader{version: 1, pageSize: 4096, machine: 62, id: 7}.encode(b)
	index := &imagepb.Index{Streams: []*imagepb.Stream{{Number: 1, Name: HostStream, Blocks: 1}}}
	for n, body := range [][]byte{manifest, start} {
		h := blockHeader{kind: blockType(n + 1), stream: uint32(n), length: uint64(len(body)), crc: checksum(body), offset: uint64(len(b)), id: 7}
		head := make([]byte, h.size())
		h.encode(head)
		copy(head[headerSize:], body)
		b = append(b, head...)
		index.Blocks = append(index.Blocks, &imagepb.Block{Offset: h.offset, Length: h.length, Type: uint32(h.kind), Stream: h.stream})
	}
	return (&editor{tb: tb, b: b, index: index, at: uint64(len(b))}).finish()
}

// FuzzImage changes a few bytes of an image, makes the checksums right again
// where they can be found, and reads all of it.
func FuzzImage(f *testing.F) {
	small := smallImage(f)
	f.Add([]byte{0, 0, 0, 0}, true)
	f.Add([]byte{100, 0, 0, 1, 16, 0, 1, 0xff}, true)
	f.Fuzz(func(t *testing.T, edits []byte, reseal bool) {
		b := bytes.Clone(small)
		for ; len(edits) >= 4; edits = edits[4:] {
			at := int(binary.LittleEndian.Uint16(edits)) | int(edits[2])<<16
			b[at%len(b)] ^= edits[3]
		}
		if reseal {
			resealAll(b)
		}
		readAll(t, b)
	})
}

// FuzzWholeImage reads arbitrary bytes as an image.
func FuzzWholeImage(f *testing.F) {
	manifest, err := proto.Marshal(&imagepb.Manifest{Arch: "amd64", PageSize: 4096})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(imageWith(f, manifest, []byte("\n\x04firn")))
	f.Fuzz(func(t *testing.T, b []byte) {
		readAll(t, b)
		resealAll(b)
		readAll(t, b)
	})
}

// resealAll makes as many checksums right as it can find.
func resealAll(b []byte) {
	if len(b) < 3*headerSize {
		return
	}
	le := binary.LittleEndian
	seal(b)
	var crc uint32
	var last []byte
	for off := uint64(headerSize); off+headerSize <= uint64(len(b)-headerSize); {
		block := b[off:]
		length := le.Uint64(block[16:])
		if length > uint64(len(block)-headerSize) {
			length = 0
		}
		(&editor{}).block(block[:headerSize+length])
		crc, last = le.Uint32(block[32:]), block
		off += blockSize(length)
	}
	tail := b[len(b)-headerSize:]
	if last != nil {
		le.PutUint32(tail[40:], crc)
	}
	seal(tail)
}

// readAll uses everything that reads an image.
func readAll(t *testing.T, b []byte) {
	t.Helper()
	i, err := open(bytes.NewReader(b), int64(len(b)), "x.firn")
	if err != nil {
		mustBeExplained(t, err)
		return
	}
	verified := i.Verify(context.Background())
	if verified != nil {
		mustBeExplained(t, verified)
	}
	for _, name := range i.Streams() {
		for r, err := range i.Records(name) {
			if err != nil {
				if verified == nil {
					t.Errorf("verified image: %v", err)
				}
				break
			}
			_, _, _ = i.Describe(name, r)
			if !r.Bulk {
				continue
			}
			if err := i.ReadBulk(r, make([]byte, min(r.BulkLen, 64)), 0); err != nil && verified == nil {
				t.Errorf("verified image: %v", err)
			}
		}
	}
	_, _ = i.HostRecords()
}

// mustBeExplained demands one of the two errors that damage can have.
func mustBeExplained(t *testing.T, err error) {
	t.Helper()
	var c *CorruptError
	if !errors.As(err, &c) || !errors.Is(err, sdk.ErrCorrupt) {
		t.Errorf("error is %v", err)
	}
}
