package image

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/host/image/imagepb"
)

// HostStream is the name of the stream that holds the host's own records.
const HostStream = "firn"

// Writer writes one image. Its streams may be used by several goroutines at
// the same time.
type Writer struct {
	out output
	tmp *tempFile // nil when the image goes to a pipe
	// packer makes it smaller; nil if nothing does.
	packer *packer
	id     uint64
	page   uint64
	// sequential: bytes can only be appended. All streams then share one
	// mutex, and at most one of them has an open group.
	sequential bool
	serial     sync.Mutex
	open       *Stream // sequential only; guarded by serial

	// gate is held for reading by every operation on a stream, for writing by
	// Commit and Abort. It comes before Stream.mu, which comes before mu.
	gate   sync.RWMutex
	closed bool

	adding sync.Mutex // held while a stream is started; comes before serial

	mu      sync.Mutex // guards what follows, and the counts of streams
	pos     uint64     // end of what is reserved
	blocks  []indexEntry
	streams map[string]*Stream
	behind  *writeBehind
	err     error // the first that happened; ends everything

	packed uint64 // size of the file, once it is finished, if it is packed
}

// CommitOptions say how an image is finished.
type CommitOptions struct {
	// Sync makes the image durable before it gets its name.
	Sync bool
}

// Totals say how much was written.
type Totals struct {
	FileBytes   uint64
	Records     uint64 // bulk records included
	RecordBytes uint64 // packed
	Bulks       uint64
	BulkBytes   uint64
	// Streams has the same for each stream by its plugin's name.
	Streams map[string]StreamTotals
}

// StreamTotals are the [Totals] of one stream.
type StreamTotals struct {
	Records, RecordBytes, Bulks, BulkBytes uint64
}

func (t *Totals) add(name string, s StreamTotals) {
	t.Streams[name] = s
	t.Records += s.Records
	t.RecordBytes += s.RecordBytes
	t.Bulks += s.Bulks
	t.BulkBytes += s.BulkBytes
}

// Create starts an image that Commit will put at path, replacing what is
// there. Until then the file has no name, or, where the file system cannot do
// that, a random one in the same directory. The manifest is copied; page size,
// architecture and time are filled in if they are not set.
func Create(path string, m *imagepb.Manifest) (*Writer, error) {
	tmp, err := createTemp(path)
	if err != nil {
		return nil, fmt.Errorf("create image %s: %w", path, err)
	}
	w := newWriter(newFileOutput(tmp.f), tmp)
	if err := w.begin(m); err != nil {
		return nil, errors.Join(fmt.Errorf("create image %s: %w", path, err), tmp.discard())
	}
	return w, nil
}

// NewWriter starts an image that is written to out strictly in sequence.
// Commit does not close out.
func NewWriter(out io.Writer, m *imagepb.Manifest) (*Writer, error) {
	w := newWriter(&pipeOutput{w: out}, nil)
	w.sequential = true
	if err := w.begin(m); err != nil {
		return nil, fmt.Errorf("create image: %w", err)
	}
	return w, nil
}

func newWriter(out output, tmp *tempFile) *Writer {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, says its documentation
	return &Writer{out: out, tmp: tmp, id: binary.LittleEndian.Uint64(b[:]), streams: map[string]*Stream{}}
}

// begin writes the file header, the manifest and the stream blocks of the host
// and of the plugins that the manifest names.
func (w *Writer) begin(m *imagepb.Manifest) error {
	m = withDefaults(m)
	w.page = uint64(m.PageSize)
	machine, ok := machines[m.Arch]
	if !ok {
		return fmt.Errorf("architecture %q is not known", m.Arch)
	}
	h := fileHeader{version: FormatVersion, pageSize: m.PageSize, machine: machine, id: w.id}
	b := make([]byte, headerSize)
	h.encode(b)
	if _, err := decodeFileHeader(b); err != nil {
		return err
	}
	if err := w.out.writeAt(0, b); err != nil {
		return err
	}
	w.pos = headerSize
	plugins := m.Plugins
	m.Plugins = nil
	for _, p := range plugins {
		if p.Name == HostStream {
			return fmt.Errorf("plugin name %q belongs to the host", p.Name)
		}
		m.Plugins = append(m.Plugins, &imagepb.Plugin{
			Name: p.Name, Version: p.Version, ApiVersion: p.ApiVersion, Optional: p.Optional,
		})
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	if err := w.writeBlock(blockHeader{kind: blockManifest}, nil, body); err != nil {
		return err
	}
	for _, p := range append([]*imagepb.Plugin{hostPlugin()}, plugins...) {
		if _, ok := w.streams[p.Name]; ok {
			return fmt.Errorf("plugin %s is in the manifest twice", p.Name)
		}
		if _, err := w.addStream(p); err != nil {
			return err
		}
	}
	return nil
}

func withDefaults(m *imagepb.Manifest) *imagepb.Manifest {
	if m == nil {
		m = &imagepb.Manifest{}
	}
	m = proto.CloneOf(m)
	if m.CreatedUnixNano == 0 {
		m.CreatedUnixNano = time.Now().UnixNano()
	}
	if m.Arch == "" {
		m.Arch = runtime.GOARCH
	}
	if m.PageSize == 0 {
		m.PageSize = uint32(os.Getpagesize())
	}
	return m
}

// Stream returns the stream of a plugin. A plugin that is not in the manifest
// gets its stream at the first call; an error shows at the first write.
func (w *Writer) Stream(plugin string) *Stream {
	w.mu.Lock()
	s := w.streams[plugin]
	w.mu.Unlock()
	if s != nil {
		return s
	}
	if err := w.enter(); err != nil {
		return &Stream{w: w, name: plugin, mu: &sync.Mutex{}}
	}
	defer w.leave()
	s, err := w.addStream(&imagepb.Plugin{Name: plugin})
	if err != nil {
		_ = w.fail(err) // shows at the first write
	}
	return s
}

// addStream starts a stream with its stream block.
func (w *Writer) addStream(p *imagepb.Plugin) (*Stream, error) {
	w.adding.Lock()
	defer w.adding.Unlock()
	w.mu.Lock()
	s := w.streams[p.Name]
	number := uint32(len(w.streams) + 1)
	w.mu.Unlock()
	if s != nil { // another goroutine was faster
		return s, nil
	}
	s = &Stream{w: w, name: p.Name, number: number, mu: &sync.Mutex{}}
	if w.sequential {
		s.mu = &w.serial
	}
	if err := checkName(p.Name); err != nil {
		return s, err
	}
	if number > maxStreams {
		return s, fmt.Errorf("more than %d streams", maxStreams)
	}
	body, err := proto.Marshal(&imagepb.StreamStart{Name: p.Name, Records: p.Records, Descriptors: p.Descriptors})
	if err != nil {
		return s, fmt.Errorf("encode stream block of %s: %w", p.Name, err)
	}
	if err := s.start(body); err != nil {
		return s, err
	}
	w.mu.Lock()
	w.streams[p.Name] = s
	w.mu.Unlock()
	return s, nil
}

// checkName accepts the names that plugins may have.
func checkName(name string) error {
	if name == "" || len(name) > 64 {
		return fmt.Errorf("plugin name %q: length is not 1 to 64", name)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("plugin name %q: only lower case letters, digits and dashes", name)
		}
	}
	return nil
}

// enter is the start of every operation on a stream; leave ends it.
func (w *Writer) enter() error {
	w.gate.RLock()
	w.mu.Lock()
	err := w.err
	w.mu.Unlock()
	if err == nil && w.closed {
		err = ErrClosed
	}
	if err != nil {
		w.gate.RUnlock()
	}
	return err
}

func (w *Writer) leave() { w.gate.RUnlock() }

// fail remembers the first error and returns it.
func (w *Writer) fail(err error) error {
	if err == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// Commit finishes the image and puts it at its place. If it fails, or if any
// write failed before, nothing stays and Abort need not be called; only when
// the last step, the sync of the directory, fails is the image there.
func (w *Writer) Commit(ctx context.Context, opts CommitOptions) (Totals, error) {
	w.gate.Lock()
	defer w.gate.Unlock()
	if w.closed {
		return Totals{}, ErrClosed
	}
	w.closed = true
	err := w.finish(ctx, opts)
	if err != nil {
		err = fmt.Errorf("commit image: %w", err)
		w.behind.stop()
		w.stopPacker()
		if w.tmp != nil {
			err = errors.Join(err, w.tmp.discard())
		}
		return Totals{}, err
	}
	return w.totals(), nil
}

func (w *Writer) finish(ctx context.Context, opts CommitOptions) error {
	for _, name := range slices.Sorted(maps.Keys(w.streams)) {
		if err := w.streams[name].flush(); err != nil {
			return err
		}
	}
	if err := errors.Join(w.err, ctx.Err()); err != nil {
		return err
	}
	if err := w.writeIndex(); err != nil {
		return err
	}
	w.behind.stop()
	if w.packer != nil {
		p := w.packer
		w.packer = nil
		if err := p.Close(); err != nil {
			return err
		}
		w.packed = p.written()
	}
	if w.tmp == nil {
		return nil
	}
	if out, ok := w.out.(*fileOutput); ok {
		if err := out.truncate(w.pos); err != nil {
			return err
		}
	}
	if opts.Sync {
		if err := syncFile(ctx, w.tmp.f); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.tmp.publish(opts.Sync)
}

// syncFile waits for fsync(2) no longer than ctx allows: a disk that hangs
// must not hold the caller. The file stays open until fsync returns.
func syncFile(ctx context.Context, f *os.File) error {
	done := make(chan error, 1)
	go func() { done <- f.Sync() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("sync: %w", ctx.Err())
	}
}

func (w *Writer) totals() Totals {
	t := Totals{FileBytes: w.pos, Streams: map[string]StreamTotals{}}
	if w.packed != 0 {
		t.FileBytes = w.packed
	}
	for name, s := range w.streams {
		t.add(name, s.counts.StreamTotals)
	}
	return t
}

// Abort gives the image up: nothing stays. After Commit it does nothing.
func (w *Writer) Abort() error {
	w.gate.Lock()
	defer w.gate.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	w.behind.stop()
	w.stopPacker()
	if w.tmp == nil {
		return nil
	}
	return w.tmp.discard()
}

// stopPacker ends the packing of an image that is given up.
func (w *Writer) stopPacker() {
	if w.packer != nil {
		_ = w.packer.Close() // nobody wants what it writes
		w.packer = nil
	}
}
