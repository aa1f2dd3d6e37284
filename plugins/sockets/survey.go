package sockets

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/procfs"
)

// survey is everything that is known about the sockets of one tree: the
// records that a dump will emit and the findings that a check reports.
type survey struct {
	sess   *sdk.Session
	frozen bool
	access *openfile.Access
	report openfile.Report
	nets   *networks
	// items are parallel to sess.Resources.
	items []item
	unix  unixTable
	// before has what was found a moment ago, by object.
	before map[uint64]*item
	// conns are the connections of a frozen tree.
	mu    sync.Mutex
	conns []*savedConnection
	// packets are the packet sockets of namespaces, once somebody asked.
	packets map[*network]map[uint32]*packetState
	// groups are those that a UDP socket may have joined, by the namespace.
	groups map[*network][]procfs.MulticastGroup
}

// item is one socket. Without a message it cannot be carried, and a finding
// says so.
type item struct {
	res *sdk.Resource
	// network is the namespace to which it belongs.
	network *network
	kind    uint32
	msg     proto.Message
	// queue is what it has received, for unix sockets.
	queue []*socketspb.Message
	// carrying are those of them with which files travel, rights duplicates of all
	// of these.
	carrying []carrying
	rights   []int
	// datagrams are what it has received, for UDP sockets.
	datagrams []*socketspb.Datagram
	// streams are its queues, for TCP connections.
	streams []*socketspb.Stream
}

func (it *item) file() *sdk.File { return it.res.File }

func (it *item) kindOf() kindOfSocket {
	s := it.file().Socket
	return kindOfSocket{s.Family, s.Type, s.Protocol}
}

// newSurvey looks at every socket. Queues are read only if the tree is frozen:
// they change otherwise; those that were read before are not read again, for the
// kernel passes over empty messages then.
func (p *plugin) newSurvey(ctx context.Context, sess *sdk.Session, frozen bool, before *survey) (*survey, error) {
	s := &survey{
		sess: sess, frozen: frozen, nets: &p.nets, access: openfile.NewAccess(sess.Tree),
		items: make([]item, len(sess.Resources)), before: map[uint64]*item{},
	}
	defer s.access.Close()
	if err := p.nets.leave(); err != nil { // those of an earlier look
		return nil, err
	}
	if err := p.nets.enterAll(sess, ofMembers(sess)); err != nil {
		return nil, err
	}
	for i := range sess.Resources {
		s.items[i].res = &sess.Resources[i]
	}
	if before != nil {
		for i := range before.items {
			s.before[before.items[i].res.Object] = &before.items[i]
		}
	}
	if err := s.unix.read(s.items, s.nets); err != nil {
		return nil, err
	}
	if err := s.readGroups(); err != nil {
		return nil, err
	}
	err := openfile.Each(ctx, len(s.items), func(i int) error {
		it := &s.items[i]
		if err := s.examine(it); err != nil && !s.gone(err) {
			return fmt.Errorf("examine %s of task %d: %w", openfile.Subject(it.res), it.res.Task, err)
		}
		return nil
	})
	if err == nil {
		err = p.readConnections(s)
	}
	if err != nil {
		for _, c := range s.conns {
			closeFD(&c.fd)
		}
		return nil, errors.Join(err, p.letGo())
	}
	s.checkSenders()
	s.summarize()
	return s, nil
}

// gone tells whether an error is that of a socket that was closed while the tree
// runs, and whose number may be another file's by now.
func (s *survey) gone(err error) bool {
	return !s.frozen && (openfile.Gone(err) || errors.Is(err, sdk.ErrChanged))
}

// examine finds out what one socket is and how it can be carried.
func (s *survey) examine(it *item) error {
	f := it.file()
	if f == nil || f.Socket == nil {
		return fmt.Errorf("resource %d is no socket: %w", it.res.Object, sdk.ErrCorrupt)
	}
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Ino != f.Ino {
		return fmt.Errorf("is another file by now: %w", sdk.ErrChanged)
	}
	if it.network, err = s.networkOf(fd); err != nil {
		return err
	}
	if it.network == nil {
		s.report.Block(it.res, f.Link+": belongs to a network namespace in which no process of the tree is", "")
		return nil
	}
	sock, err := s.describe(it, fd)
	if err != nil || sock == nil {
		return err
	}
	switch {
	case f.Socket.Family == unix.AF_UNIX:
		return s.examineUnix(it, fd, sock)
	case f.Socket.Family == unix.AF_NETLINK:
		return s.examineNetlink(it, fd, sock)
	case f.Socket.Family == unix.AF_PACKET:
		return s.examinePacket(it, fd, sock)
	case isPing(it.kindOf()):
		return s.examinePing(it, fd, sock)
	case f.Socket.Type == unix.SOCK_DGRAM:
		return s.examineUDP(it, fd, sock)
	case f.Socket.Type == unix.SOCK_RAW:
		return s.examineRaw(it, fd, sock)
	}
	return s.examineTCP(it, fd, sock)
}

// describe reads what every socket has. The result is nil if it cannot be
// carried.
func (s *survey) describe(it *item, fd int) (*socketspb.Socket, error) {
	f, k := it.file(), it.kindOf()
	sock := &socketspb.Socket{Family: int32(k.family), Type: int32(k.typ), Protocol: int32(k.protocol), Flags: f.Flags, Network: it.network.object}
	o, err := s.access.ReadOwner(it.res, fd, &s.report)
	if err != nil {
		return nil, err
	}
	if o != nil {
		sock.Owner = &socketspb.Owner{
			Type: int32(o.Type), Task: uint32(o.ID), Signal: int32(o.Signal), Uid: o.UID, Euid: o.EUID,
		}
	}
	if sock.Options, err = it.network.usual.changedOptions(fd, k); err != nil {
		return nil, err
	}
	if sock.Buffers, err = it.network.usual.readBuffers(fd, k); err != nil {
		return nil, err
	}
	sock.Filter, err = readFilter(fd)
	if errors.Is(err, errNoSource) {
		s.report.Block(it.res, f.Link+": "+err.Error()+", which the kernel does not give back", "")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	sock.Mode, sock.Uid, sock.Gid = st.Mode, st.Uid, st.Gid
	return sock, nil
}

// block reports that a socket cannot be carried.
func (s *survey) block(it *item, text, help string) { s.report.Block(it.res, text, help) }
