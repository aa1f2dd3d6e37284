package sockets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// netlinkProtocols are those whose sockets have no other state in the kernel than
// their groups: those of netfilter own tables and queues, others are registered
// for events.
var netlinkProtocols = map[int]string{
	unix.NETLINK_ROUTE: "route", unix.NETLINK_SOCK_DIAG: "sock_diag", unix.NETLINK_SELINUX: "selinux",
	unix.NETLINK_KOBJECT_UEVENT: "uevent",
}

// netlinkOptions are those of SOL_NETLINK that getsockopt(2) reads, too.
var netlinkOptions = optionSet{unix.SOL_NETLINK, []int{
	unix.NETLINK_PKTINFO, unix.NETLINK_BROADCAST_ERROR, unix.NETLINK_NO_ENOBUFS, unix.NETLINK_LISTEN_ALL_NSID,
	unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK,
}}

// examineNetlink handles netlink sockets (netlink(7)) with which nothing is going
// on: what the kernel says by one it says once.
func (s *survey) examineNetlink(it *item, fd int, sock *socketspb.Socket) error {
	k := it.kindOf()
	name := netlinkName(k.protocol)
	if netlinkProtocols[k.protocol] == "" {
		s.block(it, name+": what the kernel keeps for it cannot be read", "")
		return nil
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return fmt.Errorf("getpeername: %w", err)
	}
	l, ok1 := local.(*unix.SockaddrNetlink)
	p, ok2 := peer.(*unix.SockaddrNetlink)
	if !ok1 || !ok2 {
		return fmt.Errorf("addresses of another family: %w", sdk.ErrKernel)
	}
	msg := &socketspb.Netlink{Socket: sock, Port: l.Pid, PeerPort: p.Pid, PeerGroups: p.Groups}
	if msg.Groups, err = netlinkGroups(fd); err != nil {
		return err
	}
	if s.frozen {
		if busy, err := s.netlinkBusy(it, fd); err != nil || busy != "" {
			if busy != "" {
				s.block(it, name+": "+busy, "try again")
			}
			return err
		}
	}
	it.kind, it.msg = kindNetlink, msg
	return nil
}

func netlinkName(protocol int) string {
	if name := netlinkProtocols[protocol]; name != "" {
		return "netlink socket (" + name + ")"
	}
	return fmt.Sprintf("netlink socket (protocol %d)", protocol)
}

// netlinkGroups are the groups that a socket is a member of. The kernel gives a
// bit for each.
func netlinkGroups(fd int) ([]uint32, error) {
	bits := make([]byte, 4096)
	n, err := kern.GetSockopt(fd, unix.SOL_NETLINK, unix.NETLINK_LIST_MEMBERSHIPS, bits)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	var groups []uint32
	for at := 0; at+4 <= min(n, len(bits)); at += 4 {
		word := binary.NativeEndian.Uint32(bits[at:])
		for bit := range 32 {
			if word&(1<<bit) != 0 {
				groups = append(groups, uint32(at*8+bit+1))
			}
		}
	}
	return groups, nil
}

// netlinkBusy tells what is going on with a socket; empty if nothing is.
func (s *survey) netlinkBusy(it *item, fd int) (string, error) {
	p, err := pollSocket(fd)
	if err != nil {
		return "", err
	}
	switch {
	case p.has(unix.POLLERR):
		return "an error that the program has not seen yet", nil
	case p.has(unix.POLLIN):
		return "messages that the program has not read yet", nil
	}
	var table []byte
	err = it.network.do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/netlink")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("list netlink sockets: %w", err)
	}
	if netlinkDumps(table, it.file().Ino) {
		return "a list that the program has not read to its end", nil
	}
	return "", nil
}

// netlinkDumps finds out whether the kernel is in the middle of a list for a
// socket:
//
//	sk               Eth Pid Groups   Rmem Wmem Dump Locks Drops Inode
func netlinkDumps(table []byte, ino uint64) bool {
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		if len(f) >= 10 && string(f[9]) == strconv.FormatUint(ino, 10) {
			return string(f[6]) != "0"
		}
	}
	return false
}

// netlinkRecord is a netlink socket and, in a restore, its descriptor.
type netlinkRecord struct {
	object  uint64
	msg     *socketspb.Netlink
	fd      int
	network *network
}

// restore makes a socket and gives it its number and groups.
func (r *netlinkRecord) restore() error {
	s := r.msg.GetSocket()
	var err error
	if r.fd, err = r.network.socket(unix.AF_NETLINK, int(s.GetType()), int(s.GetProtocol())); err != nil {
		return err
	}
	if err := configure(r.fd, s); err != nil {
		return err
	}
	if r.msg.GetPort() != 0 {
		if err := unix.Bind(r.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: r.msg.GetPort()}); err != nil {
			return fmt.Errorf("bind to port %d: %w", r.msg.GetPort(), err)
		}
	}
	for _, g := range r.msg.GetGroups() {
		if err := unix.SetsockoptInt(r.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)); err != nil {
			return fmt.Errorf("join group %d: %w", g, err)
		}
	}
	if r.msg.GetPeerPort() != 0 || r.msg.GetPeerGroups() != 0 {
		peer := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: r.msg.GetPeerPort(), Groups: r.msg.GetPeerGroups()}
		if err := unix.Connect(r.fd, peer); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
	}
	return finish(r.fd, s)
}

// checkNetlink finds out whether a socket could have its number.
func (c *imageCheck) checkNetlink(r *netlinkRecord) {
	if r.network == nil || r.msg.GetPort() == 0 {
		return
	}
	err := r.restore()
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		c.block(r.object, fmt.Sprintf("%s: its number %d is in use", netlinkName(int(r.msg.GetSocket().GetProtocol())), r.msg.GetPort()),
			"stop the program that has it (/proc/net/netlink)")
	case err != nil:
		c.block(r.object, fmt.Sprintf("%s: %v", netlinkName(int(r.msg.GetSocket().GetProtocol())), err), "")
	}
}

func (im *image) addNetlink(r sdk.Record) error {
	m := &socketspb.Netlink{}
	if err := r.Decode(m); err != nil {
		return err
	}
	s := m.GetSocket()
	if s.GetFamily() != unix.AF_NETLINK || netlinkProtocols[int(s.GetProtocol())] == "" || slices.Contains(m.GetGroups(), 0) {
		return corrupt(r.Kind, r.Object, "family %d, protocol %d, groups %v", s.GetFamily(), s.GetProtocol(), m.GetGroups())
	}
	im.netlink = append(im.netlink, &netlinkRecord{object: r.Object, msg: m, fd: -1})
	return nil
}
