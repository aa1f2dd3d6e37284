package image

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/firn-cr/firn/sdk/hbuf"
)

// benchBytes is the size of the images of the benchmarks.
const benchBytes = 1 << 30

// benchDir is a directory of the file system under test: FIRN_BENCH_DIR, or
// the place for temporary files.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp(os.Getenv("FIRN_BENCH_DIR"), "firn-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// writeBulkImage writes an image of total bytes in payloads of chunk bytes
// from as many goroutines as there are streams.
func writeBulkImage(b *testing.B, path string, source []byte, total, chunk, streams int) {
	w, err := Create(path, nil)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range streams {
		wg.Go(func() {
			s := w.Stream(fmt.Sprintf("s%d", n))
			h := hbuf.Header{Flags: hbuf.FlagBulk, Kind: 1, Version: 1, Length: uint64(chunk)}
			var packed []byte
			for off := 0; off < total/streams; off += chunk {
				var err error
				if h.Bulk, h.CRC, err = s.WriteBulkSum(source[off%len(source):][:chunk]); err == nil {
					packed = hbuf.AppendRecord(packed[:0], h, nil)
					err = s.WriteRecords(packed, 1)
				}
				if err != nil {
					b.Error(err)
					return
				}
				h.Seq++
			}
		})
	}
	wg.Wait()
	if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkWrite writes into the page cache. "raw" is what the same system
// calls take without an image around them: a new file, then pwrite.
func BenchmarkWrite(b *testing.B) {
	source := pattern(64<<20, 1)
	for _, c := range []struct {
		name           string
		chunk, streams int
	}{
		{"bulk=4MiB", 4 << 20, 1}, {"bulk=4MiB/streams=2", 4 << 20, 2},
		{"bulk=256KiB", 256 << 10, 1}, {"bulk=64KiB", 64 << 10, 1}, {"bulk=4KiB", 4 << 10, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			path := filepath.Join(benchDir(b), "x.firn")
			b.SetBytes(benchBytes)
			for b.Loop() {
				writeBulkImage(b, path, source, benchBytes, c.chunk, c.streams)
				b.StopTimer()
				os.Remove(path)
				b.StartTimer()
			}
		})
		if c.streams > 1 {
			continue
		}
		b.Run(c.name+"/raw", func(b *testing.B) {
			path := filepath.Join(benchDir(b), "x")
			b.SetBytes(benchBytes)
			for b.Loop() {
				writeRaw(b, path, source, c.chunk)
				b.StopTimer()
				os.Remove(path)
				b.StartTimer()
			}
		})
	}
}

func writeRaw(b *testing.B, path string, source []byte, chunk int) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for off := 0; off < benchBytes; off += chunk {
		if _, err := f.WriteAt(source[off%len(source):][:chunk], int64(off)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecords packs records of 128 bytes as the host itself does not: it
// is the cost per record of the image alone.
func BenchmarkRecords(b *testing.B) {
	var packed []byte
	const count = 1000
	payload := pattern(128, 1)
	w, err := NewWriter(io.Discard, nil)
	if err != nil {
		b.Fatal(err)
	}
	s := w.Stream("task")
	for n := range count {
		packed = hbuf.AppendRecord(packed, hbuf.Header{Kind: 1, Version: 1, Seq: uint64(n)}, payload)
	}
	b.SetBytes(int64(len(packed)))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.WriteRecords(packed, count); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/record")
}

// BenchmarkVerify verifies an image in the page cache. "raw" computes the
// CRC32C of as many bytes of memory, on one processor.
func BenchmarkVerify(b *testing.B) {
	source := pattern(64<<20, 1)
	for _, c := range []struct {
		name  string
		chunk int
	}{{"bulk=4MiB", 4 << 20}, {"bulk=4KiB", 4 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			path := filepath.Join(benchDir(b), "x.firn")
			writeBulkImage(b, path, source, benchBytes, c.chunk, 1)
			b.SetBytes(benchBytes)
			for b.Loop() {
				i, err := Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if err := i.Verify(context.Background()); err != nil {
					b.Fatal(err)
				}
				i.Close()
			}
		})
	}
	b.Run("raw", func(b *testing.B) {
		memory := pattern(benchBytes, 1)
		b.SetBytes(benchBytes)
		for b.Loop() {
			crc32.Checksum(memory, castagnoli)
		}
	})
}

// BenchmarkOpen opens an image of 1 GiB.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(benchDir(b), "x.firn")
	writeBulkImage(b, path, pattern(64<<20, 1), benchBytes, 4<<20, 1)
	b.ReportAllocs()
	for b.Loop() {
		i, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		i.Close()
	}
}

// BenchmarkSmall creates, commits and opens an image of a few records: what an
// image costs a process that has next to nothing.
func BenchmarkSmall(b *testing.B) {
	dir := benchDir(b)
	b.ReportAllocs()
	for b.Loop() {
		path := filepath.Join(dir, "x.firn")
		w, err := Create(path, testManifest())
		if err != nil {
			b.Fatal(err)
		}
		fill(b, w, 4)
		if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
			b.Fatal(err)
		}
		i, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		i.Close()
	}
}
