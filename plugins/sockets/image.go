package sockets

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
)

// image is what the records of an image say.
type image struct {
	inet    []*inetRecord
	unix    []*unixRecord
	netlink []*netlinkRecord
	packet  []*packetRecord
	// byObject finds the unix sockets.
	byObject map[uint64]*unixRecord
}

// inetRecord is a TCP, MPTCP or UDP socket and, in a restore, its descriptor.
type inetRecord struct {
	// rewritten says why it cannot have the address that it is to have.
	rewritten error
	object    uint64
	msg       *socketspb.Inet
	fd        int
	// network is the namespace to which it belongs; nil if that is not there yet.
	network *network
	// streams are the queues of a connection, datagrams that of a UDP socket.
	streams   []*socketspb.Stream
	datagrams []*socketspb.Datagram
}

// unixRecord is a unix socket and, in a restore, its descriptor.
type unixRecord struct {
	object uint64
	msg    *socketspb.Unix
	queue  []*socketspb.Message
	fd     int
	// network is as in inetRecord.
	network *network
	// node is an O_PATH descriptor of the file that it is bound to, or -1.
	node int
}

func (r *unixRecord) dgram() bool { return r.msg.GetSocket().GetType() == unix.SOCK_DGRAM }
func (r *unixRecord) typ() int    { return int(r.msg.GetSocket().GetType()) }

// readRequest reads the image of a request, with the addresses that are wanted.
func readRequest(req *sdk.RestoreRequest) (*image, error) {
	rules, err := readRewrites(req.Session)
	if err != nil {
		return nil, err
	}
	im, err := readImage(req.Records)
	if err == nil {
		im.rewrite(rules)
	}
	return im, err
}

func readImage(records sdk.Records) (*image, error) {
	im := &image{byObject: map[uint64]*unixRecord{}}
	for r, err := range records.All() {
		if err == nil {
			err = im.add(r)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, u := range im.unix {
		if p := u.msg.GetPeer(); p != 0 && im.byObject[p] == nil {
			return nil, corrupt(kindUnix, u.object, "its peer %d is not in the image", p)
		}
		if err := im.checkWaiting(u); err != nil {
			return nil, err
		}
		// Only a datagram socket can be connected to itself, by its name.
		if u.msg.GetPeer() == u.object && (!u.dgram() || len(u.msg.GetName()) == 0) {
			return nil, corrupt(kindUnix, u.object, "it is its own peer")
		}
	}
	return im, nil
}

func (im *image) add(r sdk.Record) error {
	switch r.Kind {
	case kindInet:
		return im.addInet(r)
	case kindUnix:
		return im.addUnix(r)
	case kindNetlink:
		return im.addNetlink(r)
	case kindPacket:
		return im.addPacket(r)
	case kindMessage, kindDatagram, kindStream:
		return im.addQueued(r)
	}
	return fmt.Errorf("record kind %d: %w", r.Kind, sdk.ErrVersion)
}

func (im *image) addInet(r sdk.Record) error {
	m := &socketspb.Inet{}
	if err := r.Decode(m); err != nil {
		return err
	}
	if f := m.GetSocket().GetFamily(); f != unix.AF_INET && f != unix.AF_INET6 {
		return corrupt(r.Kind, r.Object, "family %d", f)
	}
	im.inet = append(im.inet, &inetRecord{object: r.Object, msg: m, fd: -1})
	return nil
}

func (im *image) addUnix(r sdk.Record) error {
	m := &socketspb.Unix{}
	if err := r.Decode(m); err != nil {
		return err
	}
	if im.byObject[r.Object] != nil {
		return corrupt(r.Kind, r.Object, "second record")
	}
	if m.GetSocket().GetFamily() != unix.AF_UNIX {
		return corrupt(r.Kind, r.Object, "family %d", m.GetSocket().GetFamily())
	}
	u := &unixRecord{object: r.Object, msg: m, fd: -1, node: -1}
	im.unix = append(im.unix, u)
	im.byObject[r.Object] = u
	return nil
}

// addQueued adds a part of a queue to its socket.
func (im *image) addQueued(r sdk.Record) error {
	switch r.Kind {
	case kindMessage:
		m := &socketspb.Message{}
		if err := r.Decode(m); err != nil {
			return err
		}
		u := im.byObject[r.Object]
		if u == nil {
			return corrupt(r.Kind, r.Object, "no socket for it")
		}
		u.queue = append(u.queue, m)
	case kindDatagram:
		m := &socketspb.Datagram{}
		if err := r.Decode(m); err != nil {
			return err
		}
		last := im.lastInet(r.Object)
		if last == nil || !isUDP(last.msg.GetSocket()) || last.msg.GetLocal() == nil || len(m.GetData()) > maxDatagram {
			return corrupt(r.Kind, r.Object, "no socket that could have received it")
		}
		last.datagrams = append(last.datagrams, m)
	case kindStream:
		m := &socketspb.Stream{}
		if err := r.Decode(m); err != nil {
			return err
		}
		last := im.lastInet(r.Object)
		if last == nil || last.msg.GetConnection() == nil {
			return corrupt(r.Kind, r.Object, "no connection for it")
		}
		last.streams = append(last.streams, m)
	}
	return nil
}

// checkWaiting makes sure that a listener and its clients name each other.
func (im *image) checkWaiting(u *unixRecord) error {
	for _, object := range u.msg.GetWaiting() {
		if c := im.byObject[object]; c == nil || c.msg.GetWaitsFor() != u.object || !u.msg.GetListening() {
			return corrupt(kindUnix, u.object, "socket %d does not wait for it", object)
		}
	}
	if l := u.msg.GetWaitsFor(); l != 0 {
		if o := im.byObject[l]; o == nil || !slices.Contains(o.msg.GetWaiting(), u.object) {
			return corrupt(kindUnix, u.object, "socket %d does not expect it", l)
		}
	}
	return nil
}

// lastInet is the socket that was added last, if it is the one that a queue is of:
// queues follow their sockets.
func (im *image) lastInet(object uint64) *inetRecord {
	if n := len(im.inet); n > 0 && im.inet[n-1].object == object {
		return im.inet[n-1]
	}
	return nil
}

func corrupt(kind uint32, object uint64, format string, args ...any) error {
	return &sdk.CorruptError{What: "record", Kind: kind, Object: object, Err: fmt.Errorf(format, args...)}
}

// close closes every descriptor that was made. Those that were provided must
// be forgotten before.
func (im *image) close() {
	for _, r := range im.inet {
		closeFD(&r.fd)
	}
	for _, r := range im.unix {
		closeFD(&r.fd)
		closeFD(&r.node)
	}
	for _, r := range im.netlink {
		closeFD(&r.fd)
	}
	for _, r := range im.packet {
		closeFD(&r.fd)
	}
}

func closeFD(fd *int) {
	if *fd >= 0 {
		unix.Close(*fd)
	}
	*fd = -1
}

// state returns what has to be set when all tasks exist; nil if nothing has.
func state(object uint64, fd int, s *socketspb.Socket) *openfile.State {
	o := s.GetOwner()
	if o == nil && s.GetFlags()&unix.O_ASYNC == 0 {
		return nil
	}
	st := &openfile.State{Object: object, FD: fd, Flags: s.GetFlags()}
	if o != nil {
		st.Owner = &kern.FileOwner{
			Type: kern.OwnerType(o.GetType()), ID: int(o.GetTask()), Signal: int(o.GetSignal()), UID: o.GetUid(), EUID: o.GetEuid(),
		}
	}
	return st
}

// finish gives a socket what does not matter while it is being made.
func finish(fd int, s *socketspb.Socket) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	if st.Uid != s.GetUid() || st.Gid != s.GetGid() {
		if err := unix.Fchown(fd, int(s.GetUid()), int(s.GetGid())); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	if st.Mode&0o7777 != s.GetMode()&0o7777 {
		if err := unix.Fchmod(fd, s.GetMode()&0o7777); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return openfile.SetFlags(fd, s.GetFlags())
}

// shutdownSocket shuts down one or both directions. A socket that is not
// connected is told so, but is shut down nevertheless.
func shutdownSocket(fd int, mask uint32) error {
	how := map[uint32]int{shutdownRead: unix.SHUT_RD, shutdownWrite: unix.SHUT_WR, shutdownBoth: unix.SHUT_RDWR}
	if mask == 0 {
		return nil
	}
	if err := unix.Shutdown(fd, how[mask&shutdownBoth]); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return fmt.Errorf("shut down: %w", err)
	}
	return nil
}
