package procfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"os"
)

// InetSocket is one line of /proc/net/tcp, tcp6, udp, udp6, raw or another of the
// same form.
type InetSocket struct {
	Local, Remote netip.AddrPort
	// State is a number of TCP states (10 listens); 7 for unconnected UDP.
	State int
	// UID is the owner, Ino the inode of the socket; 0 if it has none, as in
	// the states after a close.
	UID uint32
	Ino uint64
}

// InetSockets reads a file of /proc/net of the caller's network namespace:
// "tcp", "tcp6", "udp", "raw6".
func InetSockets(name string) ([]InetSocket, error) {
	b, err := os.ReadFile("/proc/thread-self/net/" + name)
	if err != nil {
		return nil, fmt.Errorf("read sockets: %w", err)
	}
	return ParseInetSockets(b)
}

// ParseInetSockets parses the content of such a file.
func ParseInetSockets(b []byte) ([]InetSocket, error) {
	_, b = cutLine(b) // the header
	var out []InetSocket
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		s, ok := parseInetSocket(line)
		if !ok {
			return nil, malformed("sockets: line %q", line)
		}
		out = append(out, s)
	}
	return out, nil
}

// parseInetSocket reads
//
//	0: 0100007F:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1579 1 ...
func parseInetSocket(line []byte) (s InetSocket, ok bool) {
	f := bytes.Fields(line)
	if len(f) < 10 {
		return s, false
	}
	var ok1, ok2 bool
	s.Local, ok1 = parseInetAddr(f[1])
	s.Remote, ok2 = parseInetAddr(f[2])
	state, ok3 := parseUint(bytes.ToLower(f[3]), 16)
	uid, ok4 := parseUint(f[7], 10)
	ino, ok5 := parseUint(f[9], 10)
	s.State, s.UID, s.Ino = int(state), uint32(uid), ino
	return s, ok1 && ok2 && ok3 && ok4 && ok5 && state <= math.MaxUint8 && uid <= math.MaxUint32
}

// parseInetAddr reads "0100007F:07E8": words of the address in the byte order
// of the machine, and the port.
func parseInetAddr(b []byte) (netip.AddrPort, bool) {
	addr, port, found := bytes.Cut(bytes.ToLower(b), []byte(":"))
	p, ok := parseUint(port, 16)
	if !found || !ok || p > math.MaxUint16 || len(addr) != 8 && len(addr) != 32 {
		return netip.AddrPort{}, false
	}
	var raw []byte
	for i := 0; i < len(addr); i += 8 {
		word, ok := parseUint(addr[i:i+8], 16)
		if !ok {
			return netip.AddrPort{}, false
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip, uint16(p)), ok
}
