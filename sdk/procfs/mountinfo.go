package procfs

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one line of /proc/PID/mountinfo.
type Mount struct {
	ID, Parent int
	// Dev is st_dev of its files as makedev(3) (not so on btrfs).
	Dev uint64
	// Root is the directory of the file system that is mounted.
	Root string
	// Point is where it is mounted, relative to the process's root.
	Point string
	// Options are the options of the mount, comma separated.
	Options string
	// Propagation are the optional fields: "shared:2", "master:1".
	Propagation []string
	// FS is the type of the file system, with its subtype: "ext4", "fuse.sshfs".
	FS string
	// Source and Super are what the file system makes of them.
	Source, Super string
}

// Mounts reads /proc/PID/mountinfo.
func Mounts(pid int) ([]Mount, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	return ParseMountInfo(b)
}

// ParseMountInfo parses the content of /proc/PID/mountinfo.
func ParseMountInfo(b []byte) ([]Mount, error) {
	var out []Mount
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		m, ok := parseMount(line)
		if !ok {
			return nil, malformed("mountinfo: line %q", line)
		}
		out = append(out, m)
	}
	return out, nil
}

// parseMount reads
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parseMount(line []byte) (m Mount, ok bool) {
	f := bytes.Split(line, []byte(" "))
	sep := -1
	for i := 6; i < len(f); i++ {
		if string(f[i]) == "-" {
			sep = i
			break
		}
	}
	if sep < 0 || len(f) < sep+4 {
		return m, false
	}
	var ok1, ok2 bool
	m.ID, ok1 = parsePositive(f[0])
	m.Parent, ok2 = parsePositive(f[1])
	major, minor, _ := bytes.Cut(f[2], []byte(":"))
	ma, ok3 := parseUint(major, 10)
	mi, ok4 := parseUint(minor, 10)
	m.Dev = unix.Mkdev(uint32(ma), uint32(mi))
	m.Root, m.Point, m.Options = unescape(f[3]), unescape(f[4]), string(f[5])
	for _, p := range f[6:sep] {
		m.Propagation = append(m.Propagation, string(p))
	}
	m.FS, m.Source = unescape(f[sep+1]), unescape(f[sep+2])
	m.Super = string(bytes.Join(f[sep+3:], []byte(" ")))
	return m, ok1 && ok2 && ok3 && ok4 && ma < 1<<12 && mi < 1<<20
}

// unescape undoes the octal escapes of blanks, newlines, backslashes and '#'
// (\040 and so on). What is no escape stays.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	var s strings.Builder
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if v, ok := parseUint(b[i+1:i+4], 8); ok && v < 256 {
				s.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		s.WriteByte(b[i])
	}
	return s.String()
}
