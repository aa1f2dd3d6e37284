package hbuf

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// createArena makes the memfd of an arena: its size can never change, so no
// access to a mapping of it can end in SIGBUS for lack of a page behind it.
func createArena(size uint64) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("firn-arena", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("firn-arena", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("create arena: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "firn-arena")
	if err := f.Truncate(int64(size)); err != nil {
		return nil, errors.Join(fmt.Errorf("create arena: %w", err), f.Close())
	}
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("create arena: seal: %w", err), f.Close())
	}
	return f, nil
}

// mapArena maps the arena in f.
func mapArena(f *os.File, l layout) (*arena, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("map arena: %w", err)
	}
	var mem []byte
	var mapErr error
	err = conn.Control(func(fd uintptr) {
		var st unix.Stat_t
		if mapErr = unix.Fstat(int(fd), &st); mapErr != nil {
			return
		}
		if uint64(st.Size) != l.size {
			mapErr = fmt.Errorf("%d bytes, want %d: %w", st.Size, l.size, ErrProtocol)
			return
		}
		mem, mapErr = unix.Mmap(int(fd), 0, int(l.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	})
	if err = errors.Join(err, mapErr); err != nil {
		return nil, fmt.Errorf("map arena: %w", err)
	}
	return &arena{layout: l, mem: mem}, nil
}

// unmap ends every access to the arena.
func (a *arena) unmap() error {
	if err := unix.Munmap(a.mem); err != nil {
		return fmt.Errorf("unmap arena: %w", err)
	}
	return nil
}

// populate gives memory to the range and enters it into this process's page
// tables. MADV_POPULATE_READ does that for many pages per fault where memory is
// there already (0.4 us per page where MADV_POPULATE_WRITE takes 2 us), and the
// entries are writable because nobody wants to hear of writes to a memfd.
// Before Linux 5.14 pages are taken when they are used.
func (a *arena) populate(off, n uint64) error {
	if n == 0 {
		return nil
	}
	err := unix.Madvise(a.mem[off:off+n], unix.MADV_POPULATE_READ)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("populate arena: %w", err)
	}
	return nil
}
