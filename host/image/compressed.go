package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/host/image/seekable"
)

// Compression is how an image is compressed; the zero value is not at all.
type Compression struct {
	// Level is one of zstd(1), from 1 to 22.
	Level int
	// Buffered is how many bytes may wait to be compressed before a stream has
	// to wait. 0: a few.
	Buffered int64
}

// defaultLevel is that of zstd(1).
const defaultLevel = 3

// ParseCompression reads "zstd", "zstd:LEVEL" and "none".
func ParseCompression(text string) (Compression, error) {
	name, level, given := strings.Cut(text, ":")
	switch {
	case name == "none" && !given:
		return Compression{}, nil
	case name != "zstd":
		return Compression{}, fmt.Errorf("compression %q: want zstd, zstd:LEVEL or none", text)
	case !given:
		return Compression{Level: defaultLevel}, nil
	}
	n, err := strconv.Atoi(level)
	if err != nil || n < 1 || n > 22 {
		return Compression{}, fmt.Errorf("compression level %q: want 1 to 22", level)
	}
	return Compression{Level: n}, nil
}

// CreateCompressed is [Create] for an image that is compressed as it is written:
// it is written in sequence, in frames of which each can be read alone.
func CreateCompressed(path string, m *imagepb.Manifest, c Compression) (*Writer, error) {
	if c.Level == 0 {
		return Create(path, m)
	}
	tmp, err := createTemp(path)
	if err != nil {
		return nil, fmt.Errorf("create image %s: %w", path, err)
	}
	w, err := newCompressed(tmp.f, tmp, m, c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create image %s: %w", path, err), tmp.discard())
	}
	return w, nil
}

// NewCompressedWriter is [NewWriter] for an image that is compressed.
func NewCompressedWriter(out io.Writer, m *imagepb.Manifest, c Compression) (*Writer, error) {
	if c.Level == 0 {
		return NewWriter(out, m)
	}
	w, err := newCompressed(out, nil, m, c)
	if err != nil {
		return nil, fmt.Errorf("create image: %w", err)
	}
	return w, nil
}

func newCompressed(out io.Writer, tmp *tempFile, m *imagepb.Manifest, c Compression) (*Writer, error) {
	z, err := seekable.NewWriter(out, c.Level, c.Buffered)
	if err != nil {
		return nil, err
	}
	w := newWriter(&pipeOutput{w: z}, tmp)
	w.sequential, w.packer = true, z
	if err := w.begin(m); err != nil {
		return nil, errors.Join(err, z.Close())
	}
	return w, nil
}

// unpack decompresses an image into memory, or, if that is short, into a file
// without a name. The result is the caller's.
func unpack(f *os.File, size int64, path string) (*os.File, error) {
	z, err := seekable.Open(f, size)
	if err != nil {
		return nil, packedDamage(path, err)
	}
	out, err := scratch(z.Size())
	if err != nil {
		return nil, fmt.Errorf("decompress image %s: %w", path, err)
	}
	if err := z.Extract(context.Background(), out); err != nil {
		return nil, errors.Join(packedDamage(path, err), out.Close())
	}
	return out, nil
}

// packedDamage tells where a compressed image is damaged. What could not be
// written is no damage.
func packedDamage(path string, err error) error {
	var e *seekable.Error
	if !errors.As(err, &e) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EIO) {
		return fmt.Errorf("decompress image %s: %w", path, err)
	}
	return &CorruptError{Path: path, Section: "compressed", Offset: e.Offset, Err: e.Err}
}

// scratch makes a file that nobody sees.
func scratch(size int64) (*os.File, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil && uint64(size) > info.Totalram*uint64(info.Unit)/4 {
		dir := os.TempDir()
		if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, fileMode); err == nil {
			return os.NewFile(uintptr(fd), filepath.Join(dir, "image")), nil
		}
	}
	fd, err := unix.MemfdCreate("image", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return os.NewFile(uintptr(fd), "image"), nil
}

// Compressed is the size of the file if the image is compressed; 0 if not.
func (i *Image) Compressed() int64 { return i.packed }
