package files

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

// pipe is a pipe or FIFO with the descriptions of the tree that refer to it.
type pipe struct {
	key  fileKey
	ends []*item
	// msg is nil if the pipe cannot be carried.
	msg *filespb.Pipe
	// queued is how many bytes it holds.
	queued int
}

// fileKey identifies an inode.
type fileKey struct{ dev, ino uint64 }

func (p *pipe) fifo() bool   { return strings.HasPrefix(p.name(), "/") }
func (p *pipe) name() string { return p.ends[0].file().Link }

// end returns an end that allows reading or writing, or nil.
func (p *pipe) end(readable bool) *item {
	for _, e := range p.ends {
		mode := e.file().Flags & unix.O_ACCMODE
		if mode == unix.O_RDWR || readable && mode == unix.O_RDONLY || !readable && mode == unix.O_WRONLY {
			return e
		}
	}
	return nil
}

// findPipes puts the ends of every pipe together.
func (s *survey) findPipes() {
	byKey := map[fileKey]*pipe{}
	for i := range s.items {
		it := &s.items[i]
		f := it.file()
		if f.Type != sdk.TypeFIFO || f.Flags&unix.O_PATH != 0 {
			continue
		}
		k := fileKey{f.Dev, f.Ino}
		p := byKey[k]
		if p == nil {
			p = &pipe{key: k}
			byKey[k] = p
			s.pipes = append(s.pipes, p)
		}
		p.ends = append(p.ends, it)
	}
}

// examineShared looks at what other processes may have open as well: pipes and
// files without a name.
func (s *survey) examineShared(known *outsiders) error {
	s.findPipes()
	if known == nil {
		known = &outsiders{}
	}
	if err := known.look(s.sess.Tree, s.search(), !s.frozen); err != nil {
		return err
	}
	for k, g := range s.ghosts {
		if holder, ok := known.holder(k); ok {
			s.block(g.item, fmt.Sprintf("%s: is also open in %s, which is outside the tree", g.item.file().Link, holder), "")
		}
	}
	for _, p := range s.pipes {
		if err := s.examinePipe(p, known); err != nil && !s.gone(err) {
			return fmt.Errorf("examine %s of task %d: %w", p.name(), p.ends[0].res.Task, err)
		}
	}
	return nil
}

func (s *survey) examinePipe(p *pipe, known *outsiders) error {
	first := p.ends[0]
	if holder, ok := known.holder(p.key); ok {
		return s.outside(p, fmt.Sprintf("%s: is also open in %s, which is outside the tree", p.name(), holder))
	}
	fd, err := s.access.Dup(first.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	msg := &filespb.Pipe{Id: first.res.Object, HadWriter: true}
	if p.fifo() && !s.examineFIFOPath(p, fd, msg) {
		return nil
	}
	if outside, err := s.peerOutside(p, msg); err != nil {
		return err
	} else if outside && s.frozen {
		return s.outside(p, p.name()+": its other end is held outside the tree")
	} else if outside {
		// No process has it. Who looks into the queues of sockets will know, and
		// does so in a frozen tree only.
		s.report.Add(first.res, sdk.LevelOK, "ok, if its other end is on its way through a socket of the tree", "")
	}
	size, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return fmt.Errorf("get size: %w", err)
	}
	msg.Size = int64(size)
	if p.queued, err = unix.IoctlGetInt(fd, unix.TIOCINQ); err != nil {
		return fmt.Errorf("get fill: %w", err)
	}
	p.msg = msg
	for _, e := range p.ends {
		d, err := s.describe(e)
		if err != nil {
			return err
		}
		e.kind, e.msg = kindPipeEnd, &filespb.PipeEnd{Description: d, Pipe: msg.Id}
	}
	return nil
}

// examineFIFOPath notes the path of a FIFO, and tells whether it still leads to
// it or the FIFO has no name any more.
func (s *survey) examineFIFOPath(p *pipe, fd int, msg *filespb.Pipe) bool {
	f := p.ends[0].file()
	var named, st unix.Stat_t
	if err := unix.Lstat(f.Link, &named); err == nil && named.Dev == f.Dev && named.Ino == f.Ino {
		msg.Path = []byte(f.Link)
		return true
	}
	path, deleted := strings.CutSuffix(f.Link, deletedSuffix)
	err := unix.Fstat(fd, &st)
	switch {
	case err == nil && deleted && st.Nlink == 0:
		msg.Path, msg.Deleted = []byte(path), true
		msg.Mode, msg.Uid, msg.Gid = st.Mode, st.Uid, st.Gid
		return true
	case deleted:
		s.block(p.ends[0], path+" (deleted): the FIFO has another name, which is not known", "")
	default:
		s.block(p.ends[0], f.Link+": the path leads to another file now, or only in another root or mount namespace", "")
	}
	return false
}

// peerOutside tells whether a side of the pipe that the tree does not have is
// open nevertheless. A reader is told about the end of the writers (POLLHUP),
// a writer about the end of the readers (POLLERR).
func (s *survey) peerOutside(p *pipe, msg *filespb.Pipe) (bool, error) {
	reader, writer := p.end(true), p.end(false)
	if reader != nil && writer != nil {
		return false, nil
	}
	only := reader
	if only == nil {
		only = writer
	}
	fd, err := s.access.Dup(only.res)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}
	if _, err := unix.Poll(poll, 0); err != nil {
		return false, fmt.Errorf("poll: %w", err)
	}
	if reader == nil {
		return poll[0].Revents&unix.POLLERR == 0, nil
	}
	msg.HadWriter = poll[0].Revents&unix.POLLHUP != 0
	// A FIFO that had no writer yet shows no POLLHUP either. Then only the
	// search for holders tells, which found none.
	return !msg.HadWriter && !p.fifo(), nil
}

// dumpPipe emits what the ends of a pipe share.
func (s *survey) dumpPipe(ctx context.Context, out sdk.Emitter, p *pipe) error {
	first := p.ends[0]
	if first.kind == kindExternal {
		return nil
	}
	if p.msg == nil {
		return fmt.Errorf("dump %s of task %d: %w", p.name(), first.res.Task, sdk.ErrUnsupported)
	}
	if err := out.Emit(ctx, kindPipe, first.res.Object, p.msg); err != nil {
		return err
	}
	if p.queued == 0 {
		return nil
	}
	chunks, err := s.pipeContent(p)
	if err != nil {
		return fmt.Errorf("dump %s of task %d: %w", p.name(), first.res.Task, err)
	}
	for _, c := range chunks {
		c.Pipe = p.msg.Id
		if err := out.Emit(ctx, kindPipeData, first.res.Object, c); err != nil {
			return err
		}
	}
	return nil
}
