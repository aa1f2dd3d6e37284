package files

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

const (
	// maxPipeData is the largest piece of content in one record.
	maxPipeData = 64 << 10
	// maxPacket is the largest packet of a pipe (PIPE_BUF, pipe(2)).
	maxPacket = 4096
)

// pipeContent copies what is in a pipe without taking it out: tee(2)
// duplicates the references to the pages, packet boundaries included.
func (s *survey) pipeContent(p *pipe) ([]*filespb.PipeData, error) {
	fd, err := s.readable(p)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	msgs, err := readMessages(fd, int(p.msg.Size), p.queued)
	if err != nil {
		return nil, err
	}
	var out []*filespb.PipeData
	for _, m := range msgs {
		for len(m.data) > maxPipeData {
			out = append(out, &filespb.PipeData{Data: m.data[:maxPipeData]})
			m.data = m.data[maxPipeData:]
		}
		out = append(out, &filespb.PipeData{Data: m.data, Packet: m.packet})
	}
	return out, nil
}

// readable returns a descriptor of the pipe that can be read. Where the tree
// has only a writer left, the pipe is opened again through it.
func (s *survey) readable(p *pipe) (int, error) {
	if end := p.end(true); end != nil {
		return s.access.Dup(end.res)
	}
	w, err := s.access.Dup(p.ends[0].res)
	if err != nil {
		return -1, err
	}
	defer unix.Close(w)
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", w), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open for reading: %w", err)
	}
	return fd, nil
}

// chunk is a run of bytes up to a packet boundary or to the end.
type chunk struct {
	data   []byte
	packet bool // a boundary follows
}

// readMessages reads a copy of the content. A read(2) ends at a packet
// boundary, so every read but the last shows one; for the last, a second copy
// is read up to its last byte: of a packet, the rest is thrown away then.
func readMessages(fd, size, queued int) ([]chunk, error) {
	c, err := newPipeCopy(fd, size, queued)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var msgs []chunk
	buf := make([]byte, queued+1)
	for left := queued; left > 0; {
		n, err := unix.Read(c.r, buf[:left+1])
		if err != nil {
			return nil, fmt.Errorf("read copy: %w", err)
		}
		if n == 0 || n > left {
			return nil, fmt.Errorf("read %d of %d bytes: %w", n, left, sdk.ErrChanged)
		}
		left -= n
		msgs = append(msgs, chunk{data: buf[:n:n], packet: left > 0})
		buf = buf[n:]
	}
	last := &msgs[len(msgs)-1]
	last.packet, err = endsInPacket(fd, size, queued, msgs)
	return msgs, err
}

// endsInPacket tells whether the last byte of the content ends a packet. A
// packet of one byte cannot be told from a byte that more may be appended to;
// it is a packet if others were.
func endsInPacket(fd, size, queued int, msgs []chunk) (bool, error) {
	last := len(msgs) - 1
	if len(msgs[last].data) == 1 {
		return last > 0, nil
	}
	c, err := newPipeCopy(fd, size, queued)
	if err != nil {
		return false, err
	}
	defer c.close()
	buf := make([]byte, queued)
	for i, m := range msgs {
		n := len(m.data)
		if i == last {
			n--
		}
		if got, err := unix.Read(c.r, buf[:n]); err != nil || got != n {
			return false, fmt.Errorf("read copy: %d of %d bytes: %w", got, n, errors.Join(err, sdk.ErrChanged))
		}
	}
	left, err := unix.IoctlGetInt(c.r, unix.TIOCINQ)
	if err != nil {
		return false, fmt.Errorf("get fill of copy: %w", err)
	}
	return left == 0, nil
}

// pipeCopy is a pipe with the same content as another.
type pipeCopy struct{ r, w int }

func newPipeCopy(fd, size, queued int) (*pipeCopy, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	c := &pipeCopy{r: p[0], w: p[1]}
	if err := setPipeSize(c.w, size); err != nil {
		c.close()
		return nil, err
	}
	n, err := unix.Tee(fd, c.w, queued, unix.SPLICE_F_NONBLOCK)
	if err == nil && int(n) != queued {
		err = fmt.Errorf("%d of %d bytes: %w", n, queued, sdk.ErrChanged)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("tee: %w", err)
	}
	return c, nil
}

func (c *pipeCopy) close() {
	unix.Close(c.r)
	unix.Close(c.w)
}

// setPipeSize sets the capacity. More than /proc/sys/fs/pipe-max-size needs
// CAP_SYS_RESOURCE.
func setPipeSize(fd, size int) error {
	now, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return fmt.Errorf("get pipe size: %w", err)
	}
	if now == size {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size); err != nil {
		return fmt.Errorf("set pipe size to %d: %w", size, err)
	}
	return nil
}

// fillPipe writes one piece of content into the non-blocking end w.
func fillPipe(w int, d *filespb.PipeData) error {
	data := d.GetData()
	if !d.GetPacket() {
		return writePipe(w, data, 0)
	}
	head := max(0, len(data)-maxPacket)
	if err := writePipe(w, data[:head], 0); err != nil {
		return err
	}
	return writePipe(w, data[head:], unix.O_DIRECT)
}

func writePipe(w int, data []byte, mode int) error {
	if len(data) == 0 {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(w), unix.F_SETFL, unix.O_NONBLOCK|mode); err != nil {
		return fmt.Errorf("set flags: %w", err)
	}
	n, err := unix.Write(w, data)
	if err == nil && n != len(data) {
		err = fmt.Errorf("%d of %d bytes fit: %w", n, len(data), sdk.ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("fill pipe: %w", err)
	}
	return nil
}
