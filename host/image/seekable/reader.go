package seekable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// Error says at which offset of the file it is damaged.
type Error struct {
	Offset int64
	Err    error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("at offset %d: %v", e.Offset, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is tells whether a file begins as one that is compressed.
func Is(r io.ReaderAt) bool {
	b := make([]byte, len(frameMagic))
	_, err := r.ReadAt(b, 0)
	return err == nil && bytes.Equal(b, frameMagic)
}

// File is a compressed file.
type File struct {
	r      io.ReaderAt
	frames []frame
}

// Open reads the table of a file. Damage is an [*Error].
func Open(r io.ReaderAt, size int64) (*File, error) {
	frames, err := readTable(r, size)
	if err != nil {
		return nil, &Error{size, err}
	}
	return &File{r, frames}, nil
}

// Size is the length of the content.
func (f *File) Size() int64 {
	if len(f.frames) == 0 {
		return 0
	}
	last := f.frames[len(f.frames)-1]
	return last.content + last.contained
}

// Extract writes the whole content to out, in pieces and from all processors.
// Damage is an [*Error] with the lowest offset that was found.
func (f *File) Extract(ctx context.Context, out io.WriterAt) error {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxContent))
	if err != nil {
		return fmt.Errorf("zstd: %w", err)
	}
	defer dec.Close()
	var mu sync.Mutex
	var failed *Error
	var next atomic.Int64
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			var packed, content []byte
			var err error
			for ctx.Err() == nil {
				n := int(next.Add(1)) - 1
				if n >= len(f.frames) {
					return
				}
				fr := f.frames[n]
				content, packed, err = f.extract(dec, fr, content, packed)
				if err == nil {
					_, err = out.WriteAt(content, fr.content)
				}
				if err != nil {
					mu.Lock()
					if failed == nil || failed.Offset > fr.offset {
						failed = &Error{fr.offset, err}
					}
					mu.Unlock()
					return
				}
			}
		})
	}
	all.Wait()
	if failed != nil {
		return failed
	}
	return ctx.Err()
}

// extract decompresses one frame; the buffers are used again.
func (f *File) extract(dec *zstd.Decoder, fr frame, content, packed []byte) ([]byte, []byte, error) {
	if int64(cap(packed)) < fr.size {
		packed = make([]byte, fr.size)
	}
	packed = packed[:fr.size]
	if _, err := f.r.ReadAt(packed, fr.offset); err != nil {
		return content, packed, err
	}
	content, err := dec.DecodeAll(packed, content[:0])
	if err == nil && int64(len(content)) != fr.contained {
		err = errors.New("a frame of another length than the table says")
	}
	return content, packed, err
}
