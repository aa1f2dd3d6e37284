package files

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// pipeSet is a pipe as the records describe it.
type pipeSet struct {
	pipe *filespb.Pipe
	data []*filespb.PipeData
	ends []pipeEnd
}

type pipeEnd struct {
	object uint64
	flags  uint32
}

func (e pipeEnd) mode() uint32 { return e.flags & unix.O_ACCMODE }

// reopened ends were opened through /proc/PID/fd: open(2) sets O_LARGEFILE,
// pipe(2) does not.
func (e pipeEnd) reopened() bool { return e.flags&largeFile != 0 }

// largeFile is O_LARGEFILE, which x/sys has as 0 where open(2) needs no flag.
const largeFile = 0o100000

// restorePipe makes a pipe, fills it and returns a descriptor for every end.
func restorePipe(s *pipeSet) (fds map[uint64]int, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	defer func() { err = errors.Join(err, closeUnused(p, fds)) }()
	if err := fill(p[1], s); err != nil {
		return nil, err
	}
	// Those that pipe(2) made come first, so that they are not reopened.
	slices.SortStableFunc(s.ends, func(a, b pipeEnd) int { return int(a.flags&largeFile) - int(b.flags&largeFile) })
	taken := [2]bool{}
	return openEnds(s.ends, func(e pipeEnd) (int, error) {
		if i := e.mode(); i < 2 && !e.reopened() && !taken[i] {
			taken[i] = true
			return p[i], nil
		}
		return reopenFD(p[0], e.flags)
	})
}

// closeUnused closes the ends of a new pipe that no description took.
func closeUnused(p [2]int, fds map[uint64]int) error {
	var errs error
	for _, fd := range p {
		used := false
		for _, u := range fds {
			used = used || u == fd
		}
		if !used {
			errs = errors.Join(errs, unix.Close(fd))
		}
	}
	return errs
}

// openEnds opens every end and sets its flags; on error it closes them all.
func openEnds(ends []pipeEnd, open func(pipeEnd) (int, error)) (map[uint64]int, error) {
	fds := map[uint64]int{}
	for _, e := range ends {
		fd, err := open(e)
		if err == nil {
			fds[e.object] = fd
			err = openfile.SetFlags(fd, e.flags)
		}
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return nil, fmt.Errorf("open end: %w", err)
		}
	}
	return fds, nil
}

// fill sets the capacity and writes the content.
func fill(w int, s *pipeSet) error {
	if err := setPipeSize(w, int(s.pipe.GetSize())); err != nil {
		return err
	}
	for _, d := range s.data {
		if err := fillPipe(w, d); err != nil {
			return err
		}
	}
	return nil
}

// openFIFO opens a FIFO with O_PATH, a deleted one after it was made again.
func openFIFO(p *filespb.Pipe) (fd int, err error) {
	path := string(p.GetPath())
	open := func() (err error) {
		if fd, err = unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open: %w", err)
		}
		return nil
	}
	if !p.GetDeleted() {
		return fd, open()
	}
	err = openfile.InDirectory(filepath.Dir(path), func() error {
		err := unix.Mkfifo(path, 0o600)
		for i := 0; errors.Is(err, unix.EEXIST) && i < 100; i++ {
			path = fmt.Sprintf("%s.firn-%d", p.GetPath(), i)
			err = unix.Mkfifo(path, 0o600)
		}
		if err != nil {
			return fmt.Errorf("make: %w", err)
		}
		err = open()
		if err == nil {
			err = unix.Chown(path, int(p.GetUid()), int(p.GetGid()))
		}
		if err == nil {
			err = unix.Chmod(path, p.GetMode()&0o7777)
		}
		return errors.Join(err, unix.Unlink(path))
	})
	return fd, err
}

// restoreFIFO opens a FIFO by its path and fills it.
func restoreFIFO(s *pipeSet) (fds map[uint64]int, err error) {
	node, err := openFIFO(s.pipe)
	if err != nil {
		return nil, err
	}
	defer unix.Close(node)
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, fmt.Errorf("is %s, was a FIFO: %w", typeName(st.Mode), sdk.ErrChanged)
	}
	if s.pipe.GetHadWriter() || len(s.data) > 0 {
		// With both sides open nothing blocks, and readers will notice that
		// there was a writer.
		both, err := reopenFD(node, unix.O_RDWR)
		if err != nil {
			return nil, fmt.Errorf("open: %w", err)
		}
		defer unix.Close(both)
		if err := fill(both, s); err != nil {
			return nil, err
		}
	}
	fds, err = openEnds(s.ends, func(e pipeEnd) (int, error) { return reopenFD(node, e.flags) })
	if err != nil || s.pipe.GetHadWriter() || len(s.data) > 0 {
		return fds, err
	}
	for _, fd := range fds {
		return fds, setPipeSize(fd, int(s.pipe.GetSize()))
	}
	return fds, nil
}
