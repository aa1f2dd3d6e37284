package procfs

import (
	"bytes"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// LockEOF is the end of a lock that reaches to the end of the file, however
// long it grows.
const LockEOF = math.MaxUint64

// Lock is one line of /proc/locks or of the lock lines of fdinfo.
type Lock struct {
	// Waiting locks ("->") are not held; only /proc/locks shows them.
	Waiting bool
	// Type is FLOCK, POSIX, OFDLCK, LEASE, DELEG, LAYOUT or ACCESS.
	Type string
	// State is ADVISORY for locks; ACTIVE, BREAKING or BREAKER for leases.
	State string
	// Access is READ, WRITE, RW or UNLCK.
	Access string
	// PID is who took it; -1 for locks of an open file description.
	PID int
	// Dev is the device of the superblock as makedev(3).
	Dev, Ino uint64
	// Start and End are the inclusive range in bytes.
	Start, End uint64
}

// Locks reads /proc/locks. Locks whose owner is in a PID namespace that the
// reader cannot see are not shown.
func Locks() ([]Lock, error) {
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil, fmt.Errorf("read locks: %w", err)
	}
	return ParseLocks(b)
}

// ParseLocks parses the content of /proc/locks.
func ParseLocks(b []byte) ([]Lock, error) {
	var out []Lock
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		l, ok := parseLock(line)
		if !ok {
			return nil, malformed("locks: line %q", line)
		}
		out = append(out, l)
	}
	return out, nil
}

// parseLock reads "1: FLOCK  ADVISORY  WRITE 16278 fe:00:9977956 0 EOF".
func parseLock(b []byte) (l Lock, ok bool) {
	f := bytes.Fields(b)
	if len(f) > 1 && string(f[1]) == "->" {
		l.Waiting = true
		f = append(f[:1:1], f[2:]...)
	}
	if len(f) != 8 || len(f[0]) < 2 || f[0][len(f[0])-1] != ':' {
		return l, false
	}
	l.Type, l.State, l.Access = string(f[1]), string(f[2]), string(f[3])
	pid, ok1 := parseInt(f[4])
	l.PID = int(pid)
	ok2 := l.parseInode(f[5])
	var ok3, ok4 bool
	l.Start, ok3 = parseUint(f[6], 10)
	if l.End, ok4 = parseUint(f[7], 10); string(f[7]) == "EOF" {
		l.End, ok4 = LockEOF, true
	}
	return l, ok1 && ok2 && ok3 && ok4 && pid >= math.MinInt32 && pid <= math.MaxInt32
}

// parseInode reads "fe:00:9977956", or "<none>:0" where there is no inode.
func (l *Lock) parseInode(b []byte) bool {
	if string(b) == "<none>:0" {
		return true
	}
	f := fields{rest: b}
	major, minor := f.hex(':'), f.hex(':')
	ino, ok := parseUint(f.rest, 10)
	l.Dev, l.Ino = unix.Mkdev(uint32(major), uint32(minor)), ino
	return ok && !f.bad && major < 1<<12 && minor < 1<<20
}
