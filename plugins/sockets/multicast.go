package sockets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// readGroups lists the groups that some socket of each namespace has joined, if
// the tree has a socket that could.
func (s *survey) readGroups() error {
	for i := range s.items {
		f := s.items[i].file()
		if f == nil || f.Socket == nil || f.Socket.Family == unix.AF_UNIX || f.Socket.Type == unix.SOCK_STREAM {
			continue
		}
		s.groups = map[*network][]procfs.MulticastGroup{}
		for _, n := range s.nets.all() {
			err := n.do(func() (err error) {
				s.groups[n], err = procfs.MulticastGroups()
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// memberships asks the kernel about every group whether the socket has joined
// it: it does not list them.
func (s *survey) memberships(it *item, fd int) ([]*socketspb.Membership, error) {
	var out []*socketspb.Membership
	k := it.kindOf()
	for _, g := range s.groups[it.network] {
		if g.Group.Is6() && k.family == unix.AF_INET || g.Group.Is4() && k.family == unix.AF_INET6 && k.typ == unix.SOCK_RAW {
			continue // not a group of its family
		}
		f, err := kern.GetGroupFilter(fd, g.Index, g.Group)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("membership in %s on %s: %w", g.Group, g.Device, err)
		}
		m := &socketspb.Membership{Index: uint32(g.Index), Device: g.Device, Group: g.Group.AsSlice(), Exclude: f.Exclude}
		for _, src := range f.Sources {
			m.Sources = append(m.Sources, src.AsSlice())
		}
		out = append(out, m)
	}
	return out, nil
}

// joinGroups makes a new socket a member of its groups. An interface is found
// by its name: numbers differ between machines.
func joinGroups(fd int, memberships []*socketspb.Membership) error {
	for _, m := range memberships {
		group, ok := netip.AddrFromSlice(m.GetGroup())
		if !ok {
			return fmt.Errorf("group %x: %w", m.GetGroup(), sdk.ErrCorrupt)
		}
		dev, err := net.InterfaceByName(m.GetDevice())
		if err != nil {
			return fmt.Errorf("join %s: interface %s: %w", group, m.GetDevice(), unix.ENODEV)
		}
		f := kern.GroupFilter{Index: dev.Index, Group: group, Exclude: m.GetExclude()}
		for _, src := range m.GetSources() {
			ip, ok := netip.AddrFromSlice(src)
			if !ok || ip.Is4() != group.Is4() {
				return fmt.Errorf("source %x of group %s: %w", src, group, sdk.ErrCorrupt)
			}
			f.Sources = append(f.Sources, ip)
		}
		if err := kern.JoinGroup(fd, f); err != nil {
			return fmt.Errorf("join %s on %s: %w", group, m.GetDevice(), err)
		}
	}
	return nil
}
