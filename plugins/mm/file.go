package mm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// file is a file that is mapped or executed, as it is now.
type file struct {
	path     string
	dev, ino uint64
	size     uint64
	mtime    int64 // ns
	elf      elfInfo
	zero     bool // /dev/zero
	// link, in /proc, leads to a file that has no name any more; empty if the path
	// does. Another plugin carries these, see [plugin.Held].
	link string
	// held is the descriptor by which this process has it, once Held has opened it.
	held int
}

// version is what changes when a file's content does; build ids are kept by it.
type version struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64
}

// mapping is how a process sees a file: two that are equal show one file.
type mapping struct {
	path     string
	dev, ino uint64
}

// maxVersions bounds the memory of a table that lives long.
const maxVersions = 1 << 14

// fileTable knows the files of a session, and the build ids of the files that
// it looked at before. Safe for concurrent use.
type fileTable struct {
	mu   sync.Mutex
	seen map[mapping]*file
	elf  map[version]elfInfo
}

func newFileTable() *fileTable {
	return &fileTable{seen: map[mapping]*file{}, elf: map[version]elfInfo{}}
}

// begin forgets what may have changed since the files were looked at.
func (t *fileTable) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = map[mapping]*file{}
	if len(t.elf) > maxVersions {
		t.elf = map[version]elfInfo{}
	}
}

// recall returns what is known about a file, or nil.
func (t *fileTable) recall(m mapping) *file {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen[m]
}

// remember keeps f, unless another goroutine was first: the same file must be
// the same pointer everywhere.
func (t *fileTable) remember(m mapping, f *file) *file {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.seen[m]; old != nil {
		return old
	}
	t.seen[m] = f
	return f
}

// devZero is the device number of /dev/zero (Documentation/admin-guide/devices.txt).
var devZero = unix.Mkdev(1, 5)

// mapped identifies the file behind a mapping of a live process. blocked says
// why it could not be mapped again.
func (t *fileTable) mapped(pid int, m *procfs.Smap) (f *file, blocked string) {
	key := mapping{m.Path, m.Dev, m.Ino}
	if f := t.recall(key); f != nil && !(f.zero && m.Shared()) {
		return f, ""
	}
	path := m.Path
	link := fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End)
	if strings.Contains(path, `\`) { // a newline in the name, perhaps
		if exact, err := os.Readlink(link); err == nil {
			path = exact
		}
	}
	st, err := statMapped(path, link, m)
	if err != nil {
		if f := t.nameless(path, link, m.Deleted()); f != nil {
			return t.remember(key, f), ""
		}
		return nil, describeMissing(m, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFCHR:
		if st.Rdev == devZero && !m.Shared() {
			return t.remember(key, &file{path: path, zero: true}), ""
		}
		return nil, fmt.Sprintf("device %s (%d:%d)", path, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	default:
		return nil, "no regular file: " + path
	}
	if m.Flags&(procfs.VMPFNMap|procfs.VMIO) != 0 {
		return nil, "device memory behind " + path
	}
	f = t.identify(path, st)
	return t.remember(mapping{path, f.dev, f.ino}, f), ""
}

// errOtherFile means that a path leads to another file than the mapped one.
var errOtherFile = errors.New("the path leads to another file")

// statMapped stats the path of a mapping and makes sure that it is the mapped
// file. On some file systems maps shows another device number than stat(2);
// then the link in map_files decides.
func statMapped(path, link string, m *procfs.Smap) (*unix.Stat_t, error) {
	var st, mapped unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, err
	}
	if st.Dev == m.Dev && st.Ino == m.Ino {
		return &st, nil
	}
	if err := unix.Stat(link, &mapped); err != nil {
		return nil, errOtherFile
	}
	if st.Dev != mapped.Dev || st.Ino != mapped.Ino {
		return nil, errOtherFile
	}
	return &st, nil
}

// deletedSuffix is what the kernel appends to the path of a file that has no
// name any more.
const deletedSuffix = " (deleted)"

// nameless describes a regular file that was deleted, or never had a name; nil if
// it is none.
func (t *fileTable) nameless(path, link string, deleted bool) *file {
	var st unix.Stat_t
	if err := unix.Stat(link, &st); err != nil || !deleted || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	f := &file{path: path, dev: st.Dev, ino: st.Ino, size: uint64(st.Size), mtime: st.Mtim.Nano(), link: link, held: -1}
	if r, err := os.Open(link); err == nil {
		f.elf = readELF(r)
		r.Close()
	}
	return f
}

func describeMissing(m *procfs.Smap, err error) string {
	switch {
	case m.Deleted():
		return "deleted file " + m.Name()
	case errors.Is(err, fs.ErrNotExist):
		return "file is gone: " + m.Path
	default:
		return fmt.Sprintf("file %s: %v", m.Path, err)
	}
}

// executable identifies the file behind /proc/PID/exe.
func (t *fileTable) executable(pid int) (*file, error) {
	link := fmt.Sprintf("/proc/%d/exe", pid)
	path, err := os.Readlink(link)
	if err != nil {
		return nil, fmt.Errorf("executable: %w", err)
	}
	var named, st unix.Stat_t
	if err := unix.Stat(link, &st); err != nil {
		return nil, fmt.Errorf("executable: %w", err)
	}
	if err := unix.Stat(path, &named); err != nil || named.Ino != st.Ino || named.Dev != st.Dev {
		key := mapping{path, st.Dev, st.Ino}
		if f := t.recall(key); f != nil {
			return f, nil
		}
		if f := t.nameless(path, link, strings.HasSuffix(path, deletedSuffix)); f != nil {
			return t.remember(key, f), nil
		}
		return nil, fmt.Errorf("executable %s was deleted or replaced: %w", strings.TrimSuffix(path, deletedSuffix), sdk.ErrUnsupported)
	}
	key := mapping{path, named.Dev, named.Ino}
	if f := t.recall(key); f != nil {
		return f, nil
	}
	return t.remember(key, t.identify(path, &named)), nil
}

// identify makes the description of a file, with the build id.
func (t *fileTable) identify(path string, st *unix.Stat_t) *file {
	v := version{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
	t.mu.Lock()
	info, ok := t.elf[v]
	t.mu.Unlock()
	if !ok {
		if r, err := os.Open(path); err == nil {
			info = readELF(r)
			r.Close()
			t.mu.Lock()
			t.elf[v] = info
			t.mu.Unlock()
		}
	}
	return &file{path: path, dev: st.Dev, ino: st.Ino, size: uint64(st.Size), mtime: v.mtime, elf: info}
}

// record makes the image's form of the file.
func (f *file) record(id uint32) *mmpb.MappedFile {
	return &mmpb.MappedFile{Id: id, Path: f.path, Dev: f.dev, Ino: f.ino, Size: f.size, Mtime: f.mtime, BuildId: f.elf.buildID}
}

// difference says how the file at the path differs from the one of the
// checkpoint; empty if it does not. note is a difference that does no harm.
func (t *fileTable) difference(m *mmpb.MappedFile) (diff, note string) {
	var st unix.Stat_t
	if err := unix.Stat(m.Path, &st); err != nil {
		return fmt.Sprintf("%s: %v", m.Path, err), ""
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return m.Path + " is no regular file any more", ""
	}
	now := t.identify(m.Path, &st)
	switch {
	case len(m.BuildId) > 0:
		if string(now.elf.buildID) != string(m.BuildId) {
			return fmt.Sprintf("%s has build id %x, not %x", m.Path, now.elf.buildID, m.BuildId), ""
		}
		return "", ""
	case now.size != m.Size:
		return fmt.Sprintf("%s has %d bytes, not %d", m.Path, now.size, m.Size), ""
	case now.ino != m.Ino:
		return m.Path + " was replaced by another file", ""
	case now.mtime != m.Mtime && m.SharedWritable:
		return "", m.Path + " was written to; the mapping shows what it contains now"
	case now.mtime != m.Mtime:
		return m.Path + " was modified", ""
	}
	return "", ""
}
