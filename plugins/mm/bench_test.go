package mm

import (
	"context"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/sdktest"
)

// discard is a sink that keeps nothing.
type discard struct{ bytes atomic.Int64 }

func (d *discard) WriteRecords(packed []byte, _ int) error {
	d.bytes.Add(int64(len(packed)))
	return nil
}

func (d *discard) WriteBulk(data []byte) (uint64, error) {
	d.bytes.Add(int64(len(data)))
	return hbuf.PageSize, nil
}

// arenaEmitter emits into an arena whose records are thrown away.
type arenaEmitter struct{ *hbuf.Producer }

func (e arenaEmitter) Emit(ctx context.Context, kind uint32, object uint64, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return e.EmitRaw(ctx, kind, object, b)
}

func (e arenaEmitter) EmitRaw(ctx context.Context, kind uint32, object uint64, payload []byte) error {
	buf, err := e.Get(ctx, len(payload))
	if err != nil {
		return err
	}
	copy(buf.Payload(), payload)
	return buf.Commit(ctx, kind, recordVersion, object)
}

func (e arenaEmitter) Bulk(ctx context.Context, size int) (*hbuf.Buf, error) {
	return e.GetBulk(ctx, size)
}

// newArena makes both ends of an arena.
func newArena(b *testing.B, sink hbuf.Sink) arenaEmitter {
	b.Helper()
	c, err := hbuf.NewConsumer(hbuf.Config{Sink: sink})
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Populate(hbuf.DefaultWarm); err != nil {
		b.Fatal(err)
	}
	go func() { _ = c.Serve(b.Context()) }()
	f := c.Files()
	p, err := hbuf.Attach(f[0], f[1], f[2], c.ArenaSize(), c.SegmentSize())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = p.Close()
		_ = c.Close()
	})
	return arenaEmitter{p}
}

// BenchmarkDump dumps a process of a gibibyte into an arena whose other end
// throws the records away: what copying, checksums and the scan cost.
func BenchmarkDump(b *testing.B) {
	needTracing(b)
	l := startSubject(b, "big")
	p := New().(*plugin)
	s := &sdk.Session{Tree: tree(l.pid), Resources: resources(b, l.pid), Host: &sdktest.Host{Tapes: inquireHere}}
	emit := newArena(b, &discard{})
	b.SetBytes(int64(bigSize()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Check(b.Context(), &sdk.CheckRequest{Session: s, Frozen: true}); err != nil {
			b.Fatal(err)
		}
		if err := p.Dump(b.Context(), &sdk.DumpRequest{Session: s, Records: emit}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScan finds the pages of a process of a gibibyte, which Check and
// Dump do while the tree is frozen.
func BenchmarkScan(b *testing.B) {
	needTracing(b)
	l := startSubject(b, "big")
	p := New().(*plugin)
	s := &sdk.Session{Tree: tree(l.pid), Resources: resources(b, l.pid), Host: &sdktest.Host{Tapes: inquireHere}}
	d := &dump{emit: newArena(b, &discard{}), files: map[*file]uint32{}}
	for b.Loop() {
		spaces, err := p.readSpaces(b.Context(), s, frozen)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.pages(b.Context(), spaces[0]); err != nil {
			b.Fatal(err)
		}
	}
}
