package resource

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// openFD is one descriptor of one process.
type openFD struct {
	pid     int
	task    sdk.TaskID
	fd      int
	cloexec bool
	file    sdk.File
}

func (p *process) readFiles(tid int) error {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", tid))
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	fds := make([]int, 0, len(names))
	for _, n := range names {
		fd, err := strconv.Atoi(n)
		if err != nil {
			return fmt.Errorf("descriptor %q: %w", n, err)
		}
		fds = append(fds, fd)
	}
	slices.Sort(fds)
	// Some 15 us per descriptor: for many it is worth to use all processors.
	parts := min(len(fds)/fdsPerReader+1, runtime.GOMAXPROCS(0))
	read := make([][]openFD, parts)
	var g errgroup.Group
	for i := range parts {
		g.Go(func() (err error) {
			read[i], err = p.readPart(int(dir.Fd()), tid, fds[len(fds)*i/parts:len(fds)*(i+1)/parts])
			return err
		})
	}
	err = g.Wait()
	p.files = slices.Concat(read...)
	return err
}

// fdsPerReader is what a goroutine that reads descriptors gets at least.
const fdsPerReader = 512

// readPart reads some of the descriptors.
func (p *process) readPart(dir, tid int, fds []int) ([]openFD, error) {
	r, err := newFDReader(dir, tid)
	if err != nil {
		return nil, err
	}
	defer r.close()
	out := make([]openFD, 0, len(fds))
	for _, fd := range fds {
		f := openFD{pid: tid, task: p.ID, fd: fd}
		err := r.read(&f)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EBADF) {
			continue // closed since the listing; cannot happen to a frozen task
		}
		if err == nil {
			err = p.mounts.complete(tid, p.mountNamespace(), &f, dir)
		}
		if err != nil {
			return nil, fmt.Errorf("fd %d: %w", fd, err)
		}
		out = append(out, f)
	}
	return out, nil
}

// fdReader reads many descriptors of one process with few system calls.
type fdReader struct {
	fdDir, infoDir int
	pidfd          int // -1 until a socket needs it
	tid            int
	buf            []byte
}

func newFDReader(fdDir, tid int) (*fdReader, error) {
	info, err := unix.Open(fmt.Sprintf("/proc/%d/fdinfo", tid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &fdReader{fdDir: fdDir, infoDir: info, pidfd: -1, tid: tid, buf: make([]byte, 4096)}, nil
}

func (r *fdReader) close() {
	unix.Close(r.infoDir)
	if r.pidfd >= 0 {
		unix.Close(r.pidfd)
	}
}

func (r *fdReader) read(f *openFD) error {
	name := strconv.Itoa(f.fd)
	n, err := unix.Readlinkat(r.fdDir, name, r.buf)
	if err != nil {
		return err
	}
	f.file.Link = string(r.buf[:n])
	var st unix.Stat_t
	if err := unix.Fstatat(r.fdDir, name, &st, 0); err != nil {
		return err
	}
	f.file.Mode, f.file.Dev, f.file.Ino = st.Mode, st.Dev, st.Ino
	f.file.Rdev, f.file.Size = st.Rdev, st.Size
	f.file.Type = fileType(st.Mode)
	if err := r.readInfo(name, f); err != nil {
		return err
	}
	// A descriptor that was opened by the path of a socket's file is no socket.
	if f.file.Type == sdk.TypeSocket && f.file.Flags&unix.O_PATH == 0 {
		f.file.Socket, err = r.socket(f.fd)
	}
	return err
}

func (r *fdReader) readInfo(name string, f *openFD) error {
	fd, err := unix.Openat(r.infoDir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n, err := unix.Read(fd, r.buf)
	unix.Close(fd)
	if err != nil {
		return err
	}
	return parseInfo(string(r.buf[:n]), f)
}

// parseInfo reads the lines that every fdinfo has (proc_pid_fdinfo(5)). What
// follows them depends on the kind of file and is for plugins.
func parseInfo(text string, f *openFD) error {
	seen := 0
	for line := range strings.Lines(text) {
		key, val, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		val = strings.TrimSpace(val)
		var err error
		switch key {
		case "pos":
			f.file.Offset, err = strconv.ParseInt(val, 10, 64)
		case "flags":
			var flags uint64
			flags, err = strconv.ParseUint(val, 8, 32)
			f.cloexec = flags&unix.O_CLOEXEC != 0
			f.file.Flags = uint32(flags &^ unix.O_CLOEXEC)
		case "mnt_id":
			f.file.MountID, err = strconv.Atoi(val)
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("fdinfo %s: %w", key, err)
		}
		if seen++; seen == 3 {
			return nil
		}
	}
	if seen < 3 {
		return fmt.Errorf("fdinfo has %d of 3 fields: %w", seen, sdk.ErrCorrupt)
	}
	return nil
}

// socket asks a duplicate of the socket for what socket(2) was given.
func (r *fdReader) socket(target int) (*sdk.Socket, error) {
	if r.pidfd < 0 {
		fd, err := kern.OpenPidfd(r.tid)
		if err != nil {
			return nil, err
		}
		r.pidfd = fd
	}
	fd, err := unix.PidfdGetfd(r.pidfd, target, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_getfd: %w", err)
	}
	defer unix.Close(fd)
	s := &sdk.Socket{}
	for _, o := range []struct {
		opt int
		dst *int
	}{{unix.SO_DOMAIN, &s.Family}, {unix.SO_TYPE, &s.Type}, {unix.SO_PROTOCOL, &s.Protocol}} {
		if *o.dst, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.opt); err != nil {
			return nil, fmt.Errorf("getsockopt: %w", err)
		}
	}
	return s, nil
}

func fileType(mode uint32) sdk.FileType {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return sdk.TypeRegular
	case unix.S_IFDIR:
		return sdk.TypeDirectory
	case unix.S_IFLNK:
		return sdk.TypeSymlink
	case unix.S_IFCHR:
		return sdk.TypeChar
	case unix.S_IFBLK:
		return sdk.TypeBlock
	case unix.S_IFIFO:
		return sdk.TypeFIFO
	case unix.S_IFSOCK:
		return sdk.TypeSocket
	}
	return sdk.TypeAnon
}

// groupKey holds what two descriptors of one description certainly share, so
// that kcmp is asked only about those that may be the same.
type groupKey struct {
	dev, ino uint64
	flags    uint32
	pos      int64
	link     string
}

// groupFiles finds the open file descriptions behind the descriptors. Within a
// group of candidates kcmp gives an order, so the cost is n log n.
func groupFiles(procs []*process, next func() uint64, running bool) ([]sdk.Resource, error) {
	groups := map[groupKey][]*openFD{}
	var keys []groupKey
	for _, p := range procs {
		for i := range p.files {
			f := &p.files[i]
			k := keyOf(&f.file)
			if _, ok := groups[k]; !ok {
				keys = append(keys, k)
			}
			groups[k] = append(groups[k], f)
		}
	}
	var out []sdk.Resource
	for _, k := range keys {
		sets, err := partition(groups[k], running)
		if err != nil {
			return nil, err
		}
		for _, fds := range sets {
			out = append(out, fileResource(fds, next()))
		}
	}
	return out, nil
}

// compareFiles orders descriptors by their descriptions. In a tree that runs one
// of them may be closed by now; then it is like no other.
func compareFiles(a, b *openFD, running bool) (int, error) {
	c, err := kern.Kcmp(a.pid, b.pid, kern.KcmpFile, uint(a.fd), uint(b.fd))
	if running && (errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH)) {
		return cmp.Or(cmp.Compare(a.pid, b.pid), cmp.Compare(a.fd, b.fd)), nil
	}
	if err != nil {
		return 0, fmt.Errorf("compare fd %d of task %d with fd %d of task %d: kcmp: %w", a.fd, a.pid, b.fd, b.pid, err)
	}
	return c, nil
}

// partition splits descriptors into those of one description each, in the
// order of their first member.
func partition(fds []*openFD, running bool) ([][]*openFD, error) {
	if len(fds) == 1 {
		return [][]*openFD{fds}, nil
	}
	sorted := slices.Clone(fds)
	var failed error
	slices.SortStableFunc(sorted, func(a, b *openFD) int {
		c, err := compareFiles(a, b, running)
		failed = cmp.Or(failed, err)
		return c
	})
	if failed != nil {
		return nil, failed
	}
	var sets [][]*openFD
	for i, f := range sorted {
		same := false
		if i > 0 {
			c, err := compareFiles(sorted[i-1], f, running)
			if err != nil {
				return nil, err
			}
			same = c == 0
		}
		if same {
			sets[len(sets)-1] = append(sets[len(sets)-1], f)
		} else {
			sets = append(sets, []*openFD{f})
		}
	}
	rank := make(map[*openFD]int, len(fds))
	for i, f := range fds {
		rank[f] = i
	}
	slices.SortFunc(sets, func(a, b []*openFD) int { return rank[a[0]] - rank[b[0]] })
	return sets, nil
}

func fileResource(fds []*openFD, object uint64) sdk.Resource {
	file := fds[0].file
	file.Refs = make([]sdk.FDRef, len(fds))
	for i, f := range fds {
		file.Refs[i] = sdk.FDRef{Task: f.task, FD: f.fd, Cloexec: f.cloexec}
	}
	return sdk.Resource{Kind: sdk.KindFile, Object: object, Task: fds[0].task, File: &file}
}
