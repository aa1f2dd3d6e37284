package procfs

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// MulticastGroup is a group that an interface has joined.
type MulticastGroup struct {
	// Index and Device are the interface.
	Index  int
	Device string
	Group  netip.Addr
}

// MulticastGroups reads the groups of all interfaces of the caller's network
// namespace, of IPv4 and IPv6.
func MulticastGroups() ([]MulticastGroup, error) {
	var out []MulticastGroup
	for name, parse := range map[string]func([]byte) ([]MulticastGroup, error){"igmp": ParseIGMP, "igmp6": ParseIGMP6} {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // no such protocol
		}
		if err != nil {
			return nil, fmt.Errorf("read multicast groups: %w", err)
		}
		groups, err := parse(b)
		if err != nil {
			return nil, err
		}
		out = append(out, groups...)
	}
	return out, nil
}

// ParseIGMP parses the content of /proc/net/igmp: a line for each interface,
// and below it an indented line for each group, as a number in the byte order
// of the machine.
//
//	1	lo        :     1      V3
//					010000E0     1 0:00000000		0
func ParseIGMP(b []byte) ([]MulticastGroup, error) {
	_, b = cutLine(b) // the header
	var out []MulticastGroup
	var dev MulticastGroup
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		f := bytes.Fields(line)
		if len(f) < 2 {
			return nil, malformed("igmp: line %q", line)
		}
		if line[0] != '\t' {
			index, ok := parsePositive(f[0])
			if !ok {
				return nil, malformed("igmp: line %q", line)
			}
			dev = MulticastGroup{Index: index, Device: string(bytes.TrimSuffix(f[1], []byte(":")))}
			continue
		}
		v, ok := parseUint(bytes.ToLower(f[0]), 16)
		if !ok || len(f[0]) != 8 || dev.Device == "" {
			return nil, malformed("igmp: line %q", line)
		}
		var ip [4]byte
		binary.NativeEndian.PutUint32(ip[:], uint32(v))
		dev.Group = netip.AddrFrom4(ip)
		out = append(out, dev)
	}
	return out, nil
}

// ParseIGMP6 parses the content of /proc/net/igmp6.
//
//	1    lo              ff020000000000000000000000000001     1 0000000C 0
func ParseIGMP6(b []byte) ([]MulticastGroup, error) {
	var out []MulticastGroup
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		f := bytes.Fields(line)
		if len(f) < 3 {
			return nil, malformed("igmp6: line %q", line)
		}
		index, ok := parsePositive(f[0])
		var ip [16]byte
		if n, err := hex.Decode(ip[:], f[2][:min(len(f[2]), 32)]); err != nil || n != 16 || len(f[2]) != 32 || !ok {
			return nil, malformed("igmp6: line %q", line)
		}
		out = append(out, MulticastGroup{Index: index, Device: string(f[1]), Group: netip.AddrFrom16(ip)})
	}
	return out, nil
}
