package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// ghostSet is a file without a name as the records describe it.
type ghostSet struct {
	msg     *filespb.Ghost
	content []sdk.Record // one for each extent
	fd      int          // in a restore
}

func (im *image) addGhost(r sdk.Record) error {
	g := im.ghosts[r.Object]
	if r.Kind == kindGhost {
		if g != nil {
			return &sdk.CorruptError{What: "record", Kind: r.Kind, Object: r.Object, Err: errors.New("second file")}
		}
		m := &filespb.Ghost{}
		if err := r.Decode(m); err != nil {
			return err
		}
		im.ghosts[r.Object] = &ghostSet{msg: m, fd: -1}
		im.ghostOrder = append(im.ghostOrder, r.Object)
		return nil
	}
	if g == nil || !r.Bulk || len(g.content) >= len(g.msg.GetExtents()) || g.msg.GetExtents()[len(g.content)].GetLength() != r.BulkLen {
		return &sdk.CorruptError{What: "record", Kind: r.Kind, Object: r.Object, Err: errors.New("content without a file, or of another length")}
	}
	g.content = append(g.content, r)
	return nil
}

// makeGhost makes a file whose content is in the image. The descriptor is for
// opening it again.
func (r *restore) makeGhost(ctx context.Context, object uint64, g *ghostSet) (err error) {
	if len(g.content) != len(g.msg.GetExtents()) {
		return fmt.Errorf("%d of %d pieces of content: %w", len(g.content), len(g.msg.GetExtents()), sdk.ErrCorrupt)
	}
	if g.msg.GetCarried() != nil {
		return r.makeCarried(ctx, object, g)
	}
	if g.fd, err = createGhost(g.msg); err != nil {
		return err
	}
	err = fillGhost(g, r.req.Records)
	if err == nil && !sealsLate(g.msg) {
		err = addSeals(g.fd, g.msg)
	}
	if err != nil {
		unix.Close(g.fd)
		g.fd = -1
		return err
	}
	return nil
}

func createGhost(m *filespb.Ghost) (fd int, err error) {
	path := string(m.GetPath())
	if m.GetMemory() {
		return createMemory(path)
	}
	if m.GetMode()&unix.S_IFMT == unix.S_IFDIR {
		dir := openfile.Directory{Path: path, Mode: m.GetMode(), UID: m.GetUid(), GID: m.GetGid()}
		return dir.Make()
	}
	fd = -1
	err = openfile.InDirectory(filepath.Dir(path), func() (err error) {
		fd, err = createDeleted(path, m.GetUnnamed())
		return err
	})
	if err != nil && fd >= 0 {
		unix.Close(fd)
		fd = -1
	}
	return fd, err
}

// createDeleted makes a file in a directory that exists.
func createDeleted(path string, unnamed bool) (int, error) {
	if !unnamed {
		// Made by its name and removed at once: /proc/PID/fd shows the name.
		const flags = unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err := unix.Open(path, flags, 0o600)
		if err == nil {
			if err := unix.Unlink(path); err != nil {
				unix.Close(fd)
				return -1, fmt.Errorf("remove: %w", err)
			}
			return fd, nil
		}
		if !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("make: %w", err)
		}
	}
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return createTemporary(dir)
	}
	if err != nil {
		return -1, fmt.Errorf("make in %s: %w", dir, err)
	}
	return fd, nil
}

// createMemory makes a memory file that may become executable, as far as the
// system allows it (vm.memfd_noexec). Kernels before 6.3 know neither flag.
func createMemory(name string) (fd int, err error) {
	for _, exec := range []int{unix.MFD_EXEC, 0, unix.MFD_NOEXEC_SEAL} {
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|exec)
		if err == nil {
			return fd, nil
		}
	}
	return -1, fmt.Errorf("memfd_create: %w", err)
}

// createTemporary is for file systems that lack O_TMPFILE.
func createTemporary(dir string) (int, error) {
	f, err := os.CreateTemp(dir, ".firn-")
	if err != nil {
		return -1, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return -1, err
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate: %w", err)
	}
	return fd, nil
}

func fillGhost(g *ghostSet, records sdk.Records) error {
	m := g.msg
	if m.GetMode()&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	if m.GetSize() < 0 {
		return fmt.Errorf("size %d: %w", m.GetSize(), sdk.ErrCorrupt)
	}
	if err := unix.Ftruncate(g.fd, m.GetSize()); err != nil {
		return fmt.Errorf("set size to %d: %w", m.GetSize(), err)
	}
	var buf []byte
	for i, r := range g.content {
		e := m.GetExtents()[i]
		if e.GetOffset() < 0 || e.GetLength() <= 0 || e.GetLength() > contentSize || e.GetOffset() > m.GetSize()-e.GetLength() {
			return fmt.Errorf("extent %d at %d: %w", e.GetLength(), e.GetOffset(), sdk.ErrCorrupt)
		}
		if buf == nil {
			buf = make([]byte, contentSize)
		}
		b := buf[:e.GetLength()]
		if err := records.ReadBulk(r, b, 0); err != nil {
			return err
		}
		if n, err := unix.Pwrite(g.fd, b, e.GetOffset()); err != nil || n != len(b) {
			return fmt.Errorf("write %d bytes at %d: %d, %w", len(b), e.GetOffset(), n, err)
		}
	}
	if err := unix.Fchown(g.fd, int(m.GetUid()), int(m.GetGid())); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Fchmod(g.fd, m.GetMode()&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if err := setAttributes(g.fd, m.GetAttributes()); err != nil {
		return err
	}
	times := []unix.Timespec{unix.NsecToTimespec(m.GetAtime()), unix.NsecToTimespec(m.GetMtime())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", g.fd), times, 0); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// checkGhost tells what keeps a file without a name from being made.
func checkGhost(m *filespb.Ghost) (level sdk.Level, text, help string) {
	if m.GetCarried() != nil {
		return checkCarried(m)
	}
	if m.GetMemory() {
		return sdk.LevelOK, "", ""
	}
	if err := openfile.WritableDirectory(filepath.Dir(string(m.GetPath()))); err != nil {
		return sdk.LevelBlock, fmt.Sprintf("%s (deleted): cannot be made in its directory: %v", m.GetPath(), err), ""
	}
	return sdk.LevelOK, "", ""
}
