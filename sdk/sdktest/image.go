package sdktest

import (
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/wire"
)

// Image is an image in memory with the records of one plugin. It is an
// hbuf.Sink.
type Image struct {
	mu     sync.Mutex
	file   *os.File // a memfd
	end    int64
	blocks []wire.Block
	seq    uint64 // of records added by hand
}

// NewImage returns an empty image, which is closed when the test ends.
func NewImage(t testing.TB) *Image {
	t.Helper()
	fd, err := unix.MemfdCreate("sdktest.firn", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatalf("sdktest: create image: %v", err)
	}
	// The first page stays empty: no record lies at offset 0 of a real image.
	img := &Image{file: os.NewFile(uintptr(fd), "sdktest.firn"), end: hbuf.PageSize}
	t.Cleanup(func() { img.file.Close() })
	return img
}

// File is the image's memfd, for bulk payloads.
func (i *Image) File() *os.File { return i.file }

// dup returns a descriptor of the image with an owner of its own.
func (i *Image) dup() (*os.File, error) {
	fd, err := unix.FcntlInt(i.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "sdktest.firn"), nil
}

// WriteRecords implements hbuf.Sink.
func (i *Image) WriteRecords(packed []byte, _ int) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	at, err := i.write(packed, hbuf.Align)
	if err != nil {
		return err
	}
	i.blocks = append(i.blocks, wire.Block{Offset: at, Length: uint64(len(packed))})
	return nil
}

// WriteBulk implements hbuf.Sink.
func (i *Image) WriteBulk(data []byte) (uint64, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.write(data, hbuf.PageSize)
}

// write appends data at a multiple of align. The lock is held.
func (i *Image) write(data []byte, align int64) (uint64, error) {
	at := (i.end + align - 1) &^ (align - 1)
	if _, err := i.file.WriteAt(data, at); err != nil {
		return 0, fmt.Errorf("sdktest: write image: %w", err)
	}
	i.end = at + int64(len(data))
	return uint64(at), nil
}

// Add appends a record by hand, for restores of images that no dump wrote.
func (i *Image) Add(t testing.TB, kind uint32, version uint16, object uint64, m proto.Message) {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatalf("sdktest: marshal record: %v", err)
	}
	i.AddRaw(t, kind, version, object, b)
}

// AddRaw appends a record with an opaque payload.
func (i *Image) AddRaw(t testing.TB, kind uint32, version uint16, object uint64, payload []byte) {
	t.Helper()
	h := hbuf.Header{Kind: kind, Version: version, Object: object, Seq: i.seq}
	i.seq++
	if err := i.WriteRecords(hbuf.AppendRecord(nil, h, payload), 1); err != nil {
		t.Fatal(err)
	}
}

// AddBulk appends a bulk record.
func (i *Image) AddBulk(t testing.TB, kind uint32, version uint16, object uint64, data []byte) {
	t.Helper()
	at, err := i.WriteBulk(data)
	if err != nil {
		t.Fatal(err)
	}
	h := hbuf.Header{
		Flags: hbuf.FlagBulk, Kind: kind, Version: version, Object: object,
		Length: uint64(len(data)), CRC: hbuf.Checksum(data), Seq: i.seq, Bulk: at,
	}
	i.seq++
	if err := i.WriteRecords(hbuf.AppendRecord(nil, h, nil), 1); err != nil {
		t.Fatal(err)
	}
}

// Records returns every record in order.
func (i *Image) Records(t testing.TB) []sdk.Record {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	var out []sdk.Record
	for _, b := range i.blocks {
		packed := make([]byte, b.Length)
		if _, err := i.file.ReadAt(packed, int64(b.Offset)); err != nil && err != io.EOF {
			t.Fatalf("sdktest: read image: %v", err)
		}
		for r, err := range hbuf.Records(packed) {
			if err != nil {
				t.Fatalf("sdktest: %v", err)
			}
			rec := sdk.Record{Kind: r.Kind, Version: r.Version, Object: r.Object, Payload: r.Payload}
			if r.IsBulk() {
				rec = sdk.Record{
					Kind: r.Kind, Version: r.Version, Object: r.Object,
					Bulk: true, BulkOffset: int64(r.Bulk), BulkLen: int64(r.Length),
				}
			}
			out = append(out, rec)
		}
	}
	return out
}

// Bulk reads the payload of a bulk record.
func (i *Image) Bulk(t testing.TB, r sdk.Record) []byte {
	t.Helper()
	b := make([]byte, r.BulkLen)
	if _, err := i.file.ReadAt(b, r.BulkOffset); err != nil {
		t.Fatalf("sdktest: read bulk record: %v", err)
	}
	return b
}

// Messages decodes every record of a kind.
func Messages[M any, P interface {
	*M
	proto.Message
}](t testing.TB, img *Image, kind uint32) []P {
	t.Helper()
	var out []P
	for _, r := range img.Records(t) {
		if r.Kind != kind {
			continue
		}
		m := P(new(M))
		if err := r.Decode(m); err != nil {
			t.Fatalf("sdktest: %v", err)
		}
		out = append(out, m)
	}
	return out
}

// Blocks are where the image's records are.
func (i *Image) Blocks() []wire.Block {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]wire.Block(nil), i.blocks...)
}
