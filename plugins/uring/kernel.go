package uring

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// From linux/io_uring.h.
const (
	setupCQSize    = 1 << 3
	setupNoSQArray = 1 << 16 // since Linux 6.6

	offSQRing = 0
	offCQRing = 0x8000000
	offSQEs   = 0x10000000

	registerEventfd    = 4
	registerPbufStatus = 26 // since Linux 6.8
	registerNAPI       = 27 // since Linux 6.9

	enterRegisteredRing = 1 << 4

	opURingCmd = 46

	sqeSize = 64
	cqeSize = 16
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags    uint32
	threadCPU, threadIdle, feature uint32
	wqFD                           uint32
	_                              [3]uint32
	sq                             sqOffsets
	cq                             cqOffsets
}

type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

// setup is io_uring_setup(2) with numbers of entries that are powers of two.
func setup(entries, completions uint32, noArray bool) (int, *params, error) {
	p := &params{flags: setupCQSize, cqEntries: completions}
	if noArray {
		p.flags |= setupNoSQArray
	}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	if errno != 0 {
		return -1, nil, fmt.Errorf("io_uring_setup with %d and %d entries: %w", entries, completions, errno)
	}
	return int(fd), p, nil
}

// ringsBytes is the length of the memory of both rings, entriesBytes that of the
// entries for submission; both are whole pages.
func (p *params) ringsBytes() int {
	size := p.cq.cqes + p.cqEntries*cqeSize
	if p.flags&setupNoSQArray == 0 {
		size = max(size, p.sq.array+4*p.sqEntries)
	}
	return wholePages(int(size))
}

func (p *params) entriesBytes() int { return wholePages(int(p.sqEntries) * sqeSize) }

func wholePages(n int) int {
	page := os.Getpagesize()
	return (n + page - 1) / page * page
}

func enter(fd int, submit uint32) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), 0, 0, 0, 0)
	if errno != 0 {
		return int(n), errno
	}
	return int(n), nil
}

// register is io_uring_register(2) with an argument that the kernel does not keep.
func register(fd, op int, arg unsafe.Pointer, count int) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), uintptr(op), uintptr(arg), uintptr(count), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// bufferGroup tells whether a group of buffers is registered. It returns ENOENT if
// not, nil or EINVAL if so.
func bufferGroup(fd int, group uint32) error {
	status := [10]uint32{group}
	return register(fd, registerPbufStatus, unsafe.Pointer(&status), 1)
}

// info is what /proc/PID/fdinfo/N shows of a ring (io_uring_show_fdinfo).
type info struct {
	entries, completions                   uint32
	sqTail, cachedSQHead                   uint32
	cqHead, cachedCQTail                   uint32
	thread                                 int
	files, buffers                         int
	polls, overflown, personalities, napis bool
}

// readInfo reads the state of a ring of this process.
func readInfo(fd int) (*info, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return nil, err
	}
	in := &info{thread: -1}
	numbers := map[string]*uint32{
		"SqMask": &in.entries, "CqMask": &in.completions, "SqTail": &in.sqTail, "CachedSqHead": &in.cachedSQHead,
		"CqHead": &in.cqHead, "CachedCqTail": &in.cachedCQTail,
	}
	seen, list := 0, ""
	for line := range bytes.Lines(b) {
		key, val, ok := strings.Cut(strings.TrimRight(string(line), "\n"), ":")
		indented := strings.HasPrefix(key, " ") || strings.HasPrefix(key, "\t")
		if val = strings.TrimSpace(val); indented || !ok {
			in.listed(list)
			continue
		}
		list = key
		if to := numbers[key]; to != nil {
			n, err := strconv.ParseUint(val, 0, 32)
			if err != nil {
				return nil, fmt.Errorf("fdinfo of a ring: %s %q: %w", key, val, sdk.ErrKernel)
			}
			*to, seen = uint32(n), seen+1
			continue
		}
		var err error
		switch key {
		case "SqThread":
			in.thread, err = strconv.Atoi(val)
		case "UserFiles":
			in.files, err = strconv.Atoi(val)
		case "UserBufs":
			in.buffers, err = strconv.Atoi(val)
		case "NAPI":
			in.napis = val != "disabled"
		}
		if err != nil {
			return nil, fmt.Errorf("fdinfo of a ring: %s %q: %w", key, val, sdk.ErrKernel)
		}
	}
	if seen < len(numbers) {
		return nil, errBusy // a lock that the kernel only tries to take
	}
	in.entries, in.completions = in.entries+1, in.completions+1
	return in, nil
}

// errBusy means that somebody is in a system call of the ring.
var errBusy = errors.New("the ring is in use")

// listed notes an element of a list of fdinfo.
func (in *info) listed(list string) {
	switch list {
	case "PollList":
		in.polls = true
	case "CqOverflowList":
		in.overflown = true
	case "Personalities":
		in.personalities = true
	}
}
