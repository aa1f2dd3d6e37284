package seekable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

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

// File is the content of a compressed file. Its methods may be called
// concurrently.
type File struct {
	r      io.ReaderAt
	frames []frame
	dec    *zstd.Decoder

	mu    sync.Mutex
	cache map[int][]byte // contents of frames
	used  []int          // their numbers, the one that was used last at the end
}

// cached is how many frames are kept: one for each of many readers.
const cached = 16

// Open reads the table of a file. Damage is an [*Error]. Close it.
func Open(r io.ReaderAt, size int64) (*File, error) {
	frames, err := readTable(r, size)
	if err != nil {
		return nil, &Error{size, err}
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxContent))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &File{r: r, frames: frames, dec: dec, cache: map[int][]byte{}}, nil
}

// Close releases what the file holds; the reader that it was opened with is the
// caller's.
func (f *File) Close() error {
	f.dec.Close()
	return nil
}

// Size is the length of the content.
func (f *File) Size() int64 {
	if len(f.frames) == 0 {
		return 0
	}
	last := f.frames[len(f.frames)-1]
	return last.content + last.contained
}

// ReadAt implements io.ReaderAt. Damage is an [*Error].
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	i := sort.Search(len(f.frames), func(i int) bool { return f.frames[i].content+f.frames[i].contained > off })
	for ; n < len(p); i++ {
		if i >= len(f.frames) || off < 0 {
			return n, io.EOF
		}
		content, err := f.frame(i)
		if err != nil {
			return n, &Error{f.frames[i].offset, err}
		}
		n += copy(p[n:], content[off+int64(n)-f.frames[i].content:])
	}
	return n, nil
}

// frame returns the content of a frame.
func (f *File) frame(i int) ([]byte, error) {
	f.mu.Lock()
	content, ok := f.cache[i]
	if ok {
		at := slices.Index(f.used, i)
		f.used = append(slices.Delete(f.used, at, at+1), i)
	}
	f.mu.Unlock()
	if ok {
		return content, nil
	}
	content, err := f.decompress(f.frames[i])
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cache[i] == nil {
		f.cache[i], f.used = content, append(f.used, i)
	}
	if len(f.used) > cached {
		delete(f.cache, f.used[0])
		f.used = slices.Delete(f.used, 0, 1)
	}
	return content, nil
}

func (f *File) decompress(fr frame) ([]byte, error) {
	packed := make([]byte, fr.size)
	if _, err := f.r.ReadAt(packed, fr.offset); err != nil {
		return nil, err
	}
	content, err := f.dec.DecodeAll(packed, make([]byte, 0, fr.contained))
	if err == nil && int64(len(content)) != fr.contained {
		err = errors.New("a frame of another length than the table says")
	}
	return content, err
}
