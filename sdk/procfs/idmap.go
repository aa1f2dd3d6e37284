package procfs

import (
	"bytes"
	"errors"
	"os"
)

// IDRange is a line of /proc/PID/uid_map or gid_map (user_namespaces(7)): Count
// ids from Inside on are those from Outside on in the user namespace of the
// reader, or for the reader's own, of the one around it. Outside is 2^32-1 for
// what the reader has no id for.
type IDRange struct{ Inside, Outside, Count uint32 }

// IDMap reads /proc/PID/uid_map or gid_map. A namespace whose map was not written
// yet has none.
func IDMap(pid int, name string) ([]IDRange, error) { return readAndParse(pid, name, ParseIDMap) }

// ParseIDMap parses the content of a map.
func ParseIDMap(b []byte) ([]IDRange, error) {
	var out []IDRange
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		words := bytes.Fields(line)
		if len(words) != 3 {
			return nil, malformed("id map: line %q", line)
		}
		var v [3]uint32
		for i, w := range words {
			n, ok := parseUint(w, 10)
			if !ok || n > 1<<32-1 {
				return nil, malformed("id map: line %q", line)
			}
			v[i] = uint32(n)
		}
		out = append(out, IDRange{v[0], v[1], v[2]})
	}
	return out, nil
}

// SetgroupsDenied reads /proc/PID/setgroups, since Linux 3.19: whether
// setgroups(2) is not allowed in the user namespace of a process.
func SetgroupsDenied(pid int) (bool, error) {
	b, err := Read(pid, "setgroups")
	if errors.Is(err, os.ErrNotExist) && exists(pid) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch string(bytes.TrimSpace(b)) {
	case "allow":
		return false, nil
	case "deny":
		return true, nil
	}
	return false, malformed("setgroups: %q", b)
}
