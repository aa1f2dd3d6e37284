package files

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

const (
	// ghostOption bounds how much of a file without a name goes into the image.
	ghostOption = "ghost-limit"
	ghostLimit  = 1 << 20
	// contentSize is the largest piece of content in one record.
	contentSize = 1 << 20
)

// ghost is a file whose content goes into the image: one without a name, or one
// that is carried.
type ghost struct {
	// item is the description through which it is read; its object names it.
	item *item
	msg  *filespb.Ghost
}

// examineGhost handles a description of a file without a name. msg becomes its
// record; g has what the caller knows of the file.
func (s *survey) examineGhost(it *item, msg *filespb.Named, g *filespb.Ghost) error {
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Nlink > 0 {
		return s.examineLinked(it, fd, msg, g)
	}
	return s.addGhost(it, fd, &st, msg, g)
}

// addGhost notes a description of a file that goes into the image, and reads
// the file through fd if it is the first one.
func (s *survey) addGhost(it *item, fd int, st *unix.Stat_t, msg *filespb.Named, g *filespb.Ghost) error {
	it.msg = msg
	key := fileKey{it.file().Dev, it.file().Ino}
	s.mu.Lock()
	defer s.mu.Unlock()
	if other := s.ghosts[key]; other != nil {
		msg.Ghost = other.item.res.Object
		return nil
	}
	if s.ghosts == nil {
		s.ghosts = map[fileKey]*ghost{}
	}
	msg.Ghost = it.res.Object
	s.ghosts[key] = &ghost{item: it, msg: g}
	return s.readGhost(it, fd, st, g)
}

// readGhost reads everything but the content.
func (s *survey) readGhost(it *item, fd int, st *unix.Stat_t, g *filespb.Ghost) error {
	name := string(g.Path) + " (deleted)"
	if g.Carried != nil {
		name = string(g.Path)
	} else if g.Memory {
		name = "memory file " + string(g.Path)
		var fs unix.Statfs_t
		if err := unix.Fstatfs(fd, &fs); err != nil {
			return fmt.Errorf("statfs: %w", err)
		}
		if fs.Type != unix.TMPFS_MAGIC {
			s.block(it, name+": has huge pages, which are not carried", "")
			return nil
		}
	} else if st.Mode&unix.S_IFMT == unix.S_IFREG {
		g.Unnamed = filepath.Base(string(g.Path)) == fmt.Sprintf("#%d", st.Ino)
	}
	g.Mode, g.Uid, g.Gid = st.Mode, st.Uid, st.Gid
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		s.report.Add(it.res, sdk.LevelOK, "ok, will be made and deleted again", "")
		return nil
	}
	limit, err := s.ghostLimit()
	if err != nil {
		return err
	}
	used := st.Blocks * 512
	if used > limit && !g.Memory && g.Carried == nil {
		s.report.Add(it.res, sdk.LevelFlag, fmt.Sprintf("%s: %d bytes of a file without a name would go into the image", name, used),
			fmt.Sprintf("--%s %d", ghostOption, used))
	} else {
		s.report.Add(it.res, sdk.LevelOK, fmt.Sprintf("ok, %d bytes go into the image", used), "")
	}
	g.Size = st.Size
	g.Atime, g.Mtime = st.Atim.Nano(), st.Mtim.Nano()
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	if g.Attributes, err = readAttributes(self); err != nil {
		return err
	}
	file, err := os.Open(self) // has an offset of its own
	if err != nil {
		return err
	}
	defer file.Close()
	if g.Memory {
		seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
		if err != nil {
			return fmt.Errorf("get seals: %w", err)
		}
		g.Seals = uint32(seals)
	}
	g.Extents, err = readExtents(file, g.Size)
	return err
}

// ghostLimit is the value of --ghost-limit: bytes, or with the suffix K, M or G.
func (s *survey) ghostLimit() (int64, error) {
	v, ok := s.sess.Option(ghostOption)
	if !ok {
		return ghostLimit, nil
	}
	digits := strings.TrimRight(v, "KMG")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift := map[string]int{"": 0, "K": 10, "M": 20, "G": 30}
	by, known := shift[v[len(digits):]]
	if err != nil || !known || n < 0 || n > math.MaxInt64>>by {
		return 0, fmt.Errorf("--%s %q: want bytes, or a number with K, M or G", ghostOption, v)
	}
	return n << by, nil
}

// readExtents lists where a file has data, in pieces of at most contentSize.
func readExtents(f *os.File, size int64) (out []*filespb.Extent, err error) {
	for off := int64(0); off < size; {
		start, err := f.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole up to the end
		}
		if err != nil {
			return nil, fmt.Errorf("seek to data: %w", err)
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("seek to hole: %w", err)
		}
		end = min(end, size)
		for ; start < end; start += contentSize {
			out = append(out, &filespb.Extent{Offset: start, Length: min(contentSize, end-start)})
		}
		off = end
	}
	return out, nil
}

// dumpGhosts emits every file without a name and its content.
func (s *survey) dumpGhosts(ctx context.Context, out sdk.Emitter) error {
	for i := range s.items {
		it := &s.items[i]
		g := s.ghosts[fileKey{it.file().Dev, it.file().Ino}]
		if g == nil || g.item != it {
			continue
		}
		if err := s.dumpGhost(ctx, out, g); err != nil {
			return fmt.Errorf("dump %s of task %d: %w", it.file().Link, it.res.Task, err)
		}
	}
	return nil
}

func (s *survey) dumpGhost(ctx context.Context, out sdk.Emitter, g *ghost) error {
	object := g.item.res.Object
	if err := out.Emit(ctx, kindGhost, object, g.msg); err != nil {
		return err
	}
	fd, err := s.access.Dup(g.item.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, e := range g.msg.Extents {
		buf, err := out.Bulk(ctx, int(e.Length))
		if err != nil {
			return err
		}
		if _, err := f.ReadAt(buf.Payload()[:e.Length], e.Offset); err != nil {
			buf.Put()
			return fmt.Errorf("read %d bytes at %d: %w", e.Length, e.Offset, err)
		}
		buf.Trim(int(e.Length))
		if err := buf.Commit(ctx, kindContent, 1, object); err != nil {
			return err
		}
	}
	return nil
}
