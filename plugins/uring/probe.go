package uring

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uring/uringpb"
)

// maxGroup is how many groups of buffers a ring can have.
const maxGroup = 1 << 16

// probe finds out what a ring has that the kernel does not show, by calls that
// change nothing. They are made on a fresh ring as well, to tell what a kernel lacks.
func probe(fd, fresh int) (text string, err error) {
	if _, err := enter(fd, 0); errors.Is(err, unix.EBADFD) {
		return "is not enabled yet (IORING_SETUP_R_DISABLED)", nil
	} else if err != nil {
		return "", fmt.Errorf("io_uring_enter: %w", err)
	}
	switch err := register(fd, registerEventfd, nil, 1); {
	case errors.Is(err, unix.EEXIST):
		return "belongs to one thread (IORING_SETUP_SINGLE_ISSUER)", nil
	case errors.Is(err, unix.EBUSY):
		return "has a registered eventfd", nil
	case errors.Is(err, unix.EACCES):
		return "has restrictions", nil
	case !errors.Is(err, unix.EFAULT):
		return "", fmt.Errorf("probe for an eventfd: %w", err)
	}
	if differs, err := refusesNAPI(fresh, fd); err != nil || differs {
		return "polls for completions (IORING_SETUP_IOPOLL)", err
	}
	return "", nil
}

// refuseGroups is sdk.ErrUnsupported if a ring has a group of buffers. The kernel
// has no list of them: it asks for each number there is.
func refuseGroups(fd, fresh int) error {
	if !errors.Is(bufferGroup(fresh, 0), unix.ENOENT) {
		return nil // before Linux 6.8: what may be registered nobody can tell
	}
	for group := range uint32(maxGroup) {
		if !errors.Is(bufferGroup(fd, group), unix.ENOENT) {
			return refusalError(fmt.Sprintf("has a group of buffers (%d)", group))
		}
	}
	return nil
}

// refusesNAPI tells whether a ring, unlike another one, takes no request to poll
// devices, which IORING_SETUP_IOPOLL excludes. The request is in no readable place.
func refusesNAPI(fresh, fd int) (bool, error) {
	nowhere, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false, fmt.Errorf("reserve a page: %w", err)
	}
	at := unsafe.Pointer(unsafe.SliceData(nowhere))
	was, is := register(fresh, registerNAPI, at, 1), register(fd, registerNAPI, at, 1)
	return !errors.Is(is, was), unix.Munmap(nowhere)
}

// layout finds out where the parts of a ring's memory are. The kernel does not tell
// whether there is an array of indices (none with IORING_SETUP_NO_SQARRAY, which
// liburing sets since 2.6), nor how large entries are (IORING_SETUP_SQE128, CQE32):
// what the program has left in the memory does.
func layout(fd int, ring *uringpb.Ring) (err error) {
	other, p, err := setup(ring.GetEntries(), ring.GetCompletionEntries(), false)
	if err != nil {
		return err
	}
	defer unix.Close(other)
	for _, large := range []struct {
		offset int64
		size   int
		what   string
	}{
		{offSQEs, wholePages(2 * sqeSize * int(ring.GetEntries())), "large entries (IORING_SETUP_SQE128)"},
		{offSQRing, wholePages(int(p.cq.cqes) + 2*cqeSize*int(ring.GetCompletionEntries())), "large completions (IORING_SETUP_CQE32)"},
	} {
		usual := p.entriesBytes()
		if large.offset == offSQRing {
			usual = p.ringsBytes()
		}
		if large.size > usual && hasMemory(fd, large.offset, large.size) {
			return refusalError("has " + large.what)
		}
	}
	// Without the array the memory may end earlier.
	if !hasMemory(fd, offSQRing, p.ringsBytes()) {
		p.flags |= setupNoSQArray
	}
	m, err := mapMemory(fd, p, unix.PROT_READ)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	if text := m.contradiction(ring.GetSubmitted()); text != "" {
		return refusalError(text)
	}
	if p.flags&setupNoSQArray == 0 && m.arrayUnused() {
		p.flags |= setupNoSQArray
	}
	ring.NoArray = p.flags&setupNoSQArray != 0
	ring.RingsBytes, ring.EntriesBytes = uint32(p.ringsBytes()), uint32(p.entriesBytes())
	return nil
}

// hasMemory tells whether the memory of a ring is that large. More can be mapped,
// but is not there.
func hasMemory(fd int, offset int64, size int) bool {
	b, err := unix.Mmap(fd, offset, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Munmap(b) }()
	last := [1]byte{}
	local, remote := unix.Iovec{Base: &last[0]}, unix.RemoteIovec{Base: uintptr(unsafe.Pointer(&b[size-1])), Len: 1}
	local.SetLen(1)
	n, err := unix.ProcessVMReadv(os.Getpid(), []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	return err == nil && n == 1
}

// contradiction tells why the memory is not that of the layout, or not surely.
func (m *memory) contradiction(submitted uint32) string {
	used := min(submitted, m.sqEntries)
	if used < 2 {
		return textUnused
	}
	for n := range used {
		if m.entry(n)[0] == opURingCmd {
			return "has commands for drivers (IORING_OP_URING_CMD)"
		}
	}
	if isZero(m.entry(1)) {
		return "does not use its entries in turn: its layout cannot be told"
	}
	second := m.rings[m.cq.cqes+cqeSize:][:cqeSize]
	if isZero(second) {
		return "has completions whose size cannot be told"
	}
	if m.flags&setupNoSQArray != 0 {
		return ""
	}
	for n := range m.sqEntries {
		if i := m.array(n); i >= m.sqEntries {
			return "has an array of indices that cannot be told"
		}
	}
	return ""
}

// arrayUnused tells whether nobody has ever written to the array of indices: then
// there is none, for a program that uses its entries in turn writes there.
func (m *memory) arrayUnused() bool { return isZero(m.rings[m.sq.array:][:4*m.sqEntries]) }

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
