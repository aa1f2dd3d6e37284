package procfs

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FDInfo is /proc/PID/fdinfo/N. What follows the first fields depends on the
// kind of file; lines that are not known are skipped.
type FDInfo struct {
	// Pos is the file offset.
	Pos int64
	// Flags are the access mode and status flags, with O_CLOEXEC if the
	// descriptor has it.
	Flags uint32
	// MountID is the mount's id in mountinfo of the process.
	MountID int
	// Ino is the inode number; 0 on kernels before 5.14.
	Ino uint64
	// Locks are the locks that are held through this description, and POSIX
	// locks of the process on its file.
	Locks []Lock
	// Eventfd, Timerfd and Sigmask are set for files of that kind.
	Eventfd *EventfdInfo
	Timerfd *TimerfdInfo
	Sigmask *uint64
	// TTYIndex is the number of the slave of a pseudo-terminal's master (/dev/ptmx),
	// since Linux 4.15.
	TTYIndex *int
	// Epoll are the files that an epoll instance watches.
	Epoll []EpollTarget
	// Inotify are the watches of an inotify instance, Fanotify is a fanotify
	// group with its marks.
	Inotify  []InotifyWatch
	Fanotify *FanotifyInfo
	// Pidfd is set for pidfds.
	Pidfd *PidfdInfo
}

// EventfdInfo is the state of an eventfd(2).
type EventfdInfo struct {
	Count     uint64
	Semaphore bool
	// SemaphoreKnown is false on kernels before 6.5, which do not tell.
	SemaphoreKnown bool
}

// TimerfdInfo is the state of a timerfd(2).
type TimerfdInfo struct {
	ClockID int
	// Ticks is what read(2) would return; 0 if it would block.
	Ticks uint64
	// Settime are the flags of the last timerfd_settime(2).
	Settime uint32
	// Value is the time left, Interval the period.
	Value, Interval unix.Timespec
}

// EpollTarget is one entry of an epoll(7) interest list.
type EpollTarget struct {
	// FD is the number under which the file was added. The process may have
	// closed or reused it since.
	FD     int
	Events uint32
	Data   uint64
	// Pos and Ino are of the file, Dev of its superblock as makedev(3).
	Pos int64
	Ino uint64
	Dev uint64
}

// PidfdInfo is what a pidfd refers to.
type PidfdInfo struct {
	// PID is its number in the PID namespace of this /proc: 0 if it has none
	// there, -1 if it was reaped.
	PID int
}

// ReadFDInfo reads /proc/PID/fdinfo/FD.
func ReadFDInfo(pid, fd int) (*FDInfo, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return nil, fmt.Errorf("read fdinfo: %w", err)
	}
	return ParseFDInfo(b)
}

// ParseFDInfo parses the content of /proc/PID/fdinfo/N. The fields that every
// file has (pos, flags, mnt_id) must be there.
func ParseFDInfo(b []byte) (*FDInfo, error) {
	info := &FDInfo{}
	p := fdinfoParser{info: info}
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		key, val, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		if !p.line(string(key), bytes.TrimSpace(val)) {
			return nil, malformed("fdinfo: line %q", line)
		}
	}
	if p.seen != 7 {
		return nil, malformed("fdinfo: pos, flags or mnt_id is missing")
	}
	return info, nil
}

type fdinfoParser struct {
	info *FDInfo
	seen int // bits: pos, flags, mnt_id
}

// line takes one "key: value" line and tells whether it is well formed.
func (p *fdinfoParser) line(key string, val []byte) (ok bool) {
	info := p.info
	switch key {
	case "pos":
		info.Pos, ok = parseInt(val)
		p.seen |= 1
	case "flags":
		var v uint64
		v, ok = parseUint(val, 8)
		info.Flags, p.seen = uint32(v), p.seen|2
		ok = ok && v <= math.MaxUint32
	case "mnt_id":
		info.MountID, ok = parsePositive(val)
		p.seen |= 4
	case "ino":
		info.Ino, ok = parseUint(val, 10)
	case "lock":
		var l Lock
		l, ok = parseLock(val)
		info.Locks = append(info.Locks, l)
	case "tfd":
		var t EpollTarget
		t, ok = parseEpollTarget(val)
		info.Epoll = append(info.Epoll, t)
	case "sigmask":
		var v uint64
		v, ok = parseUint(val, 16)
		info.Sigmask = &v
	case "tty-index":
		var v int
		v, ok = parsePositive(val)
		info.TTYIndex = &v
	case "Pid":
		var v int64
		v, ok = parseInt(val)
		info.Pidfd = &PidfdInfo{PID: int(v)}
		ok = ok && v >= -1 && v <= math.MaxInt32
	case "inotify wd":
		return p.inotify(val)
	case "fanotify flags", "fanotify ino", "fanotify mnt_id", "fanotify sdev", "fanotify mnt_ns":
		return p.fanotify(strings.TrimPrefix(key, "fanotify "), val)
	case "eventfd-count", "eventfd-semaphore":
		return p.eventfd(key, val)
	case "clockid", "ticks", "settime flags", "it_value", "it_interval":
		return p.timerfd(key, val)
	default:
		return true
	}
	return ok
}

func (p *fdinfoParser) eventfd(key string, val []byte) (ok bool) {
	if p.info.Eventfd == nil {
		p.info.Eventfd = &EventfdInfo{}
	}
	e := p.info.Eventfd
	if key == "eventfd-count" {
		e.Count, ok = parseUint(val, 16)
		return ok
	}
	v, ok := parseUint(val, 10)
	e.Semaphore, e.SemaphoreKnown = v == 1, true
	return ok && v <= 1
}

func (p *fdinfoParser) timerfd(key string, val []byte) (ok bool) {
	if p.info.Timerfd == nil {
		p.info.Timerfd = &TimerfdInfo{}
	}
	t := p.info.Timerfd
	switch key {
	case "clockid":
		t.ClockID, ok = parsePositive(val)
	case "ticks":
		t.Ticks, ok = parseUint(val, 10)
	case "settime flags":
		var v uint64
		v, ok = parseUint(val, 8)
		t.Settime = uint32(v)
		ok = ok && v <= math.MaxUint32
	case "it_value":
		t.Value, ok = parseTimespec(val)
	case "it_interval":
		t.Interval, ok = parseTimespec(val)
	}
	return ok
}

// parseTimespec reads "(seconds, nanoseconds)".
func parseTimespec(b []byte) (ts unix.Timespec, ok bool) {
	b, pre := bytes.CutPrefix(b, []byte("("))
	b, post := bytes.CutSuffix(b, []byte(")"))
	sec, nsec, mid := bytes.Cut(b, []byte(", "))
	s, ok1 := parseUint(sec, 10)
	ns, ok2 := parseUint(nsec, 10)
	if !pre || !post || !mid || !ok1 || !ok2 || s > math.MaxInt64 || ns >= 1e9 {
		return unix.Timespec{}, false
	}
	return unix.Timespec{Sec: int64(s), Nsec: int64(ns)}, true
}

// parseEpollTarget reads what follows "tfd:":
//
//	7 events: 80000019 data:  5  pos:0 ino:6301 sdev:f
func parseEpollTarget(b []byte) (t EpollTarget, ok bool) {
	f := bytes.Fields(b)
	if len(f) < 5 || string(f[1]) != "events:" || string(f[3]) != "data:" {
		return t, false
	}
	fd, ok1 := parsePositive(f[0])
	events, ok2 := parseUint(f[2], 16)
	data, ok3 := parseUint(f[4], 16)
	t = EpollTarget{FD: fd, Events: uint32(events), Data: data}
	ok = ok1 && ok2 && ok3 && events <= math.MaxUint32
	for _, field := range f[5:] {
		key, val, _ := bytes.Cut(field, []byte(":"))
		var good bool
		switch string(key) {
		case "pos":
			t.Pos, good = parseInt(val)
		case "ino":
			t.Ino, good = parseUint(val, 16)
		case "sdev":
			var v uint64
			v, good = parseUint(val, 16)
			t.Dev, good = kernelDev(v), good && v <= math.MaxUint32
		default:
			good = true
		}
		ok = ok && good
	}
	return t, ok
}

// kernelDev turns the kernel's own dev_t (20 bits of minor number) into the
// form of makedev(3).
func kernelDev(v uint64) uint64 {
	return unix.Mkdev(uint32(v>>20), uint32(v&(1<<20-1)))
}

func parseInt(b []byte) (int64, bool) {
	v, err := strconv.ParseInt(string(b), 10, 64)
	return v, err == nil
}

// parsePositive reads an int that is not negative.
func parsePositive(b []byte) (int, bool) {
	v, ok := parseUint(b, 10)
	return int(v), ok && v <= math.MaxInt32
}
