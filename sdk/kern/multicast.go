package kern

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Layout of struct group_filter (linux/in.h):
//
//	0 u32 interface  8 sockaddr_storage group  136 u32 mode  140 u32 count  144 sockaddr_storage sources[]
//
// struct group_req is its first 136 bytes.
const (
	sockaddrStorage = 128
	groupAddr       = 8
	groupReq        = groupAddr + sockaddrStorage
	groupMode       = groupReq
	groupCount      = groupMode + 4
	groupSources    = groupCount + 4
	maxSources      = 1 << 16
)

// GroupFilter is the membership of a socket in a multicast group.
type GroupFilter struct {
	// Index is the interface.
	Index int
	Group netip.Addr
	// Exclude tells that Sources are those that are not wanted.
	Exclude bool
	Sources []netip.Addr
}

// GetGroupFilter reads the membership of a socket in a group on an interface;
// EADDRNOTAVAIL if it has not joined the group there.
func GetGroupFilter(fd, index int, group netip.Addr) (GroupFilter, error) {
	var b []byte
	for room := uint32(0); ; {
		b = make([]byte, groupSources+int(room)*sockaddrStorage)
		putGroup(b, index, group)
		binary.NativeEndian.PutUint32(b[groupCount:], room)
		if _, err := GetSockopt(fd, levelOf(group), unix.MCAST_MSFILTER, b); err != nil {
			return GroupFilter{}, err
		}
		// How many there are, not how many found room.
		n := binary.NativeEndian.Uint32(b[groupCount:])
		if n <= room {
			break
		}
		if n > maxSources {
			return GroupFilter{}, unix.E2BIG
		}
		room = n
	}
	f := GroupFilter{Index: index, Group: group, Exclude: binary.NativeEndian.Uint32(b[groupMode:]) == unix.MCAST_EXCLUDE}
	n := binary.NativeEndian.Uint32(b[groupCount:])
	for i := range int(n) {
		f.Sources = append(f.Sources, sockaddrIP(b[groupSources+i*sockaddrStorage:], group.Is4()))
	}
	return f, nil
}

// JoinGroup makes a socket a member as the filter says.
func JoinGroup(fd int, f GroupFilter) error {
	b := make([]byte, groupSources+len(f.Sources)*sockaddrStorage)
	putGroup(b, f.Index, f.Group)
	if err := SetSockopt(fd, levelOf(f.Group), unix.MCAST_JOIN_GROUP, b[:groupReq]); err != nil {
		return err
	}
	if f.Exclude && len(f.Sources) == 0 {
		return nil // what a new member has
	}
	mode := uint32(unix.MCAST_INCLUDE)
	if f.Exclude {
		mode = unix.MCAST_EXCLUDE
	}
	binary.NativeEndian.PutUint32(b[groupMode:], mode)
	binary.NativeEndian.PutUint32(b[groupCount:], uint32(len(f.Sources)))
	for i, s := range f.Sources {
		putSockaddr(b[groupSources+i*sockaddrStorage:], s)
	}
	return SetSockopt(fd, levelOf(f.Group), unix.MCAST_MSFILTER, b)
}

func levelOf(group netip.Addr) int {
	if group.Is4() {
		return unix.SOL_IP
	}
	return unix.SOL_IPV6
}

func putGroup(b []byte, index int, group netip.Addr) {
	binary.NativeEndian.PutUint32(b, uint32(index))
	putSockaddr(b[groupAddr:], group)
}

// Offsets of sin_addr and sin6_addr.
const (
	sinAddr  = 4
	sin6Addr = 8
)

func putSockaddr(b []byte, ip netip.Addr) {
	if ip.Is4() {
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		copy(b[sinAddr:], ip.AsSlice())
		return
	}
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	copy(b[sin6Addr:], ip.AsSlice())
}

func sockaddrIP(b []byte, v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte(b[sinAddr : sinAddr+4]))
	}
	return netip.AddrFrom16([16]byte(b[sin6Addr : sin6Addr+16]))
}
