package seekable

import (
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"github.com/firn-cr/firn/host/image/blocks"
)

// maxContent is the most in a frame that a reader accepts. Those of a writer have
// one block: enough for the ratio not to suffer, and what has to be decompressed to
// read a byte.
const maxContent = 64 << 20

// Writer compresses what is written to it, on all processors. It is for one
// goroutine.
type Writer struct {
	*blocks.Writer[[]byte]
	out     io.Writer
	frames  []frame
	content int64
	written int64
}

// NewWriter writes to out with a level of zstd(1), from 1 to 22. Up to buffered
// bytes wait to be compressed before Write blocks.
func NewWriter(out io.Writer, level int, buffered int64) (*Writer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	w := &Writer{out: out}
	w.Writer = blocks.NewWriter(buffered, func(b *blocks.Block[[]byte]) { b.Result = enc.EncodeAll(b.Content, nil) }, w.frame)
	return w, nil
}

// frame writes a compressed block.
func (w *Writer) frame(b *blocks.Block[[]byte]) error {
	if _, err := w.out.Write(b.Result); err != nil {
		return err
	}
	w.frames = append(w.frames, frame{w.written, int64(len(b.Result)), w.content, int64(len(b.Content))})
	w.written += int64(len(b.Result))
	w.content += int64(len(b.Content))
	return nil
}

// Close writes what is left and the table. It must be called, also to give the
// file up; it does not close the output.
func (w *Writer) Close() error {
	if err := w.Writer.Close(); err != nil {
		return err
	}
	n, err := w.out.Write(encodeTable(w.frames))
	w.written += int64(n)
	return err
}

// Written is how many bytes the output got. It is for after Close.
func (w *Writer) Written() int64 { return w.written }
