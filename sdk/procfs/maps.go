package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mapping is one line of /proc/PID/maps: one VMA.
type Mapping struct {
	// Start and End are the half-open range of addresses.
	Start, End uint64
	// Perm is "rwxp" with dashes for what is missing; the last byte is 'p' for
	// private and 's' for shared mappings.
	Perm string
	// Offset is the offset in the file in bytes.
	Offset uint64
	// Dev is the device of the file as makedev(3); 0 for private anonymous memory.
	Dev uint64
	// Ino is the inode of the file; 0 for private anonymous memory.
	Ino uint64
	// Path is the rest of the line as the kernel prints it: a path (with
	// newlines as \012, and " (deleted)" at the end), "[heap]", "[stack]",
	// "[vdso]", "[anon:NAME]", or empty.
	Path string
}

// deletedSuffix marks a file that has no name any more.
const deletedSuffix = " (deleted)"

// Len is the length in bytes.
func (m *Mapping) Len() uint64 { return m.End - m.Start }

// Shared tells whether the mapping is MAP_SHARED.
func (m *Mapping) Shared() bool { return m.Perm[3] == 's' }

// Readable tells whether the mapping has PROT_READ.
func (m *Mapping) Readable() bool { return m.Perm[0] == 'r' }

// Writable tells whether the mapping has PROT_WRITE.
func (m *Mapping) Writable() bool { return m.Perm[1] == 'w' }

// Executable tells whether the mapping has PROT_EXEC.
func (m *Mapping) Executable() bool { return m.Perm[2] == 'x' }

// Deleted tells whether the mapped file has lost its name. (The number of its
// inode tells nothing: System V shared memory may have inode 0.)
func (m *Mapping) Deleted() bool {
	return strings.HasPrefix(m.Path, "/") && strings.HasSuffix(m.Path, deletedSuffix)
}

// Name is the path without the mark of a deleted file.
func (m *Mapping) Name() string {
	if m.Deleted() {
		return strings.TrimSuffix(m.Path, deletedSuffix)
	}
	return m.Path
}

// Maps reads /proc/PID/maps. A process without memory (a zombie, a kernel
// thread) has no mappings and gives no error.
func Maps(pid int) ([]Mapping, error) {
	for try := 1; ; try++ {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			return nil, fmt.Errorf("read maps: %w", err)
		}
		// Several reads are not one look: a mapping that grew between two of
		// them shows up in both.
		maps, err := ParseMaps(b)
		if err == nil || try == mapsTries || !errors.Is(err, ErrFormat) {
			return maps, err
		}
	}
}

// mapsTries is how often the maps of a process that runs are read until they
// are consistent.
const mapsTries = 10

// ParseMaps parses the content of /proc/PID/maps.
func ParseMaps(b []byte) ([]Mapping, error) {
	maps := make([]Mapping, 0, bytes.Count(b, []byte{'\n'}))
	for n := 1; len(b) > 0; n++ {
		line, rest := cutLine(b)
		b = rest
		m, err := ParseMapping(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(maps) > 0 && m.Start < maps[len(maps)-1].End {
			return nil, malformed("line %d: mapping %x-%x is not in order", n, m.Start, m.End)
		}
		maps = append(maps, m)
	}
	return maps, nil
}

// ParseMapping parses one line of /proc/PID/maps, which is also the first line
// of each mapping in /proc/PID/smaps.
func ParseMapping(line []byte) (Mapping, error) {
	f := fields{rest: line}
	m := Mapping{
		Start:  f.hex('-'),
		End:    f.hex(' '),
		Perm:   string(f.upTo(' ')),
		Offset: f.hex(' '),
	}
	major, minor := f.hex(':'), f.hex(' ')
	m.Ino = f.decimal(' ')
	m.Path = string(bytes.TrimLeft(f.rest, " "))
	switch {
	case f.bad:
		return Mapping{}, malformed("mapping %q", line)
	case !validPerm(m.Perm):
		return Mapping{}, malformed("mapping %q: permissions", line)
	case m.Start >= m.End:
		return Mapping{}, malformed("mapping %q: empty range", line)
	case major > 1<<12-1 || minor > 1<<20-1:
		return Mapping{}, malformed("mapping %q: device", line)
	}
	m.Dev = unix.Mkdev(uint32(major), uint32(minor))
	return m, nil
}

func validPerm(p string) bool {
	if len(p) != 4 || (p[3] != 's' && p[3] != 'p') {
		return false
	}
	for i, c := range []byte("rwx") {
		if p[i] != c && p[i] != '-' {
			return false
		}
	}
	return true
}
