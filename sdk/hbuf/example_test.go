package hbuf_test

import (
	"context"
	"fmt"
	"log"

	"github.com/firn-cr/firn/sdk/hbuf"
)

// printer is a sink that keeps nothing.
type printer struct{}

func (printer) WriteBulk(data []byte) (uint64, error) {
	fmt.Printf("%d bytes of bulk\n", len(data))
	return 8192, nil
}

func (printer) WriteRecords(packed []byte, _ int) error {
	for r, err := range hbuf.Records(packed) {
		if err != nil {
			return err
		}
		fmt.Printf("record %d of object %d: %q, bulk at %d\n", r.Seq, r.Object, r.Payload, r.Bulk)
	}
	return nil
}

// The host makes an arena and serves it; the plugin, here in the same process,
// reserves, fills and commits.
func Example() {
	ctx := context.Background()
	host, err := hbuf.NewConsumer(hbuf.Config{Sink: printer{}, Mode: hbuf.Deferred, MemoryLimit: 16 << 20})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = host.Close() }()
	go func() { _ = host.Serve(ctx) }()

	files := host.Files() // a plugin inherits them
	plugin, err := hbuf.Attach(files[0], files[1], files[2], host.ArenaSize(), host.SegmentSize())
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = plugin.Close() }()
	if err := emit(ctx, plugin); err != nil {
		log.Fatal(err)
	}

	fmt.Println("frozen: nothing is written")
	if err := host.Drain(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// frozen: nothing is written
	// 100000 bytes of bulk
	// record 0 of object 7: "header", bulk at 0
	// record 1 of object 7: "", bulk at 8192
}

// emit commits a record and a bulk record.
func emit(ctx context.Context, p *hbuf.Producer) error {
	head, err := p.Get(ctx, 100)
	if err != nil {
		return err
	}
	head.Trim(copy(head.Payload(), "header"))
	pages, err := p.GetBulk(ctx, hbuf.MaxBulk) // while the first is still held
	if err != nil {
		head.Put()
		return err
	}
	pages.Trim(100_000)
	if err := head.Commit(ctx, 1, 1, 7); err != nil {
		pages.Put()
		return err
	}
	if err := pages.Commit(ctx, 2, 1, 7); err != nil {
		return err
	}
	return p.Flush(ctx)
}
