package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/image/delta"
	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/host/image/seekable"
)

// Packing is how an image is made smaller on its way to the file; the zero value
// is not at all.
type Packing struct {
	// Level is a level of zstd(1), from 1 to 22; 0 for no compression.
	Level int
	// Base is the image whose pages are left out; nil for none.
	Base *delta.Base
	// Dedup stores pages that are equal once.
	Dedup bool
	// Buffered is how many bytes may wait to be packed before a stream has to
	// wait. 0: a few.
	Buffered int64
}

func (p *Packing) none() bool { return p.Level == 0 && p.Base == nil && !p.Dedup }

// defaultLevel is that of zstd(1).
const defaultLevel = 3

// ParseCompression reads "zstd", "zstd:LEVEL" and "none", and returns the level.
func ParseCompression(text string) (level int, err error) {
	name, number, given := strings.Cut(text, ":")
	switch {
	case name == "none" && !given:
		return 0, nil
	case name != "zstd":
		return 0, fmt.Errorf("compression %q: want zstd, zstd:LEVEL or none", text)
	case !given:
		return defaultLevel, nil
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > 22 {
		return 0, fmt.Errorf("compression level %q: want 1 to 22", number)
	}
	return n, nil
}

// CreatePacked is [Create] for an image that is packed as it is written: it is
// written in sequence.
func CreatePacked(path string, m *imagepb.Manifest, p Packing) (*Writer, error) {
	if p.none() {
		return Create(path, m)
	}
	tmp, err := createTemp(path)
	if err != nil {
		return nil, fmt.Errorf("create image %s: %w", path, err)
	}
	w, err := newPacked(tmp.f, tmp, m, p)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create image %s: %w", path, err), tmp.discard())
	}
	return w, nil
}

// NewPackedWriter is [NewWriter] for an image that is packed.
func NewPackedWriter(out io.Writer, m *imagepb.Manifest, p Packing) (*Writer, error) {
	if p.none() {
		return NewWriter(out, m)
	}
	w, err := newPacked(out, nil, m, p)
	if err != nil {
		return nil, fmt.Errorf("create image: %w", err)
	}
	return w, nil
}

func newPacked(out io.Writer, tmp *tempFile, m *imagepb.Manifest, p Packing) (*Writer, error) {
	pk, err := newPacker(out, p)
	if err != nil {
		return nil, err
	}
	w := newWriter(&pipeOutput{w: pk.stages[0]}, tmp)
	w.sequential, w.packer = true, pk
	if err := w.begin(m); err != nil {
		return nil, errors.Join(err, pk.Close())
	}
	return w, nil
}

// packer has the stages through which an image goes, the first one first.
type packer struct {
	stages []stage
}

type stage interface {
	io.WriteCloser
	Written() int64
}

// newPacker makes the stages: what is there already is left out, and the rest is
// compressed.
func newPacker(out io.Writer, p Packing) (*packer, error) {
	pk := &packer{}
	if p.Level != 0 {
		z, err := seekable.NewWriter(out, p.Level, p.Buffered)
		if err != nil {
			return nil, err
		}
		pk.stages = []stage{z}
		out = z
	}
	if p.Base != nil || p.Dedup {
		d, err := delta.NewWriter(out, p.Base, p.Dedup, p.Buffered)
		if err != nil {
			return nil, errors.Join(err, pk.Close())
		}
		pk.stages = append([]stage{d}, pk.stages...)
	}
	return pk, nil
}

// Close ends all stages, in the order in which they hand on.
func (p *packer) Close() error {
	var errs []error
	for _, s := range p.stages {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// written is the size of the file, after Close.
func (p *packer) written() uint64 { return uint64(p.stages[len(p.stages)-1].Written()) }

// content is what the stages of an image leave.
type content struct {
	r    io.ReaderAt
	size int64
	// file has the content as it is; nil if r makes it of something else.
	file *os.File
	// stored is the size of the file; 0 if it is as long as its content.
	stored int64
	// parent is the path of the image that it is based on; empty without one.
	parent string
	// owned are closed with it, the last one first.
	owned []io.Closer
}

func (c *content) Close() error {
	var errs []error
	for i := len(c.owned) - 1; i >= 0; i-- {
		errs = append(errs, c.owned[i].Close())
	}
	return errors.Join(errs...)
}

// unpack finds the stages of an image. It owns f, which is closed if there is an
// error.
func unpack(f *os.File, path string, depth int) (*content, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open image %s: %w", path, err), f.Close())
	}
	if !info.Mode().IsRegular() {
		return nil, errors.Join(&fs.PathError{Op: "open image", Path: path, Err: errors.New("not a regular file")}, f.Close())
	}
	c := &content{r: f, size: info.Size(), file: f, owned: []io.Closer{f}}
	for _, undo := range []func(*content, string, int) error{decompress, resolve} {
		if err := undo(c, path, depth); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	if c.file == nil {
		c.stored = info.Size()
	}
	return c, nil
}

// decompress undoes the compression of a file that is compressed.
func decompress(c *content, path string, _ int) error {
	if !seekable.Is(c.r) {
		return nil
	}
	z, err := seekable.Open(c.r, c.size)
	if err != nil {
		return compressedDamage(path, err)
	}
	c.r, c.size, c.file = z, z.Size(), nil
	c.owned = append(c.owned, z)
	return nil
}

// solidify puts the content into a file that nobody sees, from all processors.
func (c *content) solidify(path string) error {
	if c.file != nil {
		return nil
	}
	out, err := scratch(c.size)
	if err != nil {
		return fmt.Errorf("unpack image %s: %w", path, err)
	}
	const step = 1 << 20
	var next atomic.Int64
	var g errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			buf := make([]byte, step)
			for {
				at := (next.Add(1) - 1) * step
				if at >= c.size {
					return nil
				}
				b := buf[:min(step, c.size-at)]
				if _, err := c.r.ReadAt(b, at); err != nil {
					return err
				}
				if _, err := out.WriteAt(b, at); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return errors.Join(compressedDamage(path, err), out.Close())
	}
	// What it was made of is not needed any more.
	err = c.Close()
	c.r, c.file, c.owned = out, out, []io.Closer{out}
	return err
}

// compressedDamage tells where a compressed image is damaged. What could not be
// written is no damage.
func compressedDamage(path string, err error) error {
	var e *seekable.Error
	if !errors.As(err, &e) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EIO) {
		return fmt.Errorf("unpack image %s: %w", path, err)
	}
	return &CorruptError{Path: path, Section: "compressed", Offset: e.Offset, Err: e.Err}
}

// scratch makes a file that nobody sees: in memory, or, if that is short, on the
// disk.
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

// Stored is the size of the file, if the image is compressed or leaves something
// out; 0 if it is as long as its content.
func (i *Image) Stored() int64 { return i.content.stored }
