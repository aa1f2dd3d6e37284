package sockets

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Bits of sk_shutdown (net/sock.h).
const (
	shutdownRead  = 1
	shutdownWrite = 2
	shutdownBoth  = shutdownRead | shutdownWrite
)

// unixTable are all unix sockets, and which of them are of the tree.
type unixTable struct {
	all  map[uint32]*unixSocket
	tree map[uint32]*item
	// waiting are clients that a listener has not accepted yet, by their listeners.
	waiting map[uint32]*unixSocket
}

// read asks the kernel, if there is a unix socket in the tree.
func (t *unixTable) read(items []item, nets *networks) error {
	t.tree = map[uint32]*item{}
	for i := range items {
		if f := items[i].file(); f != nil && f.Socket != nil && f.Socket.Family == unix.AF_UNIX {
			t.tree[uint32(f.Ino)] = &items[i]
		}
	}
	if len(t.tree) == 0 {
		return nil
	}
	t.all = map[uint32]*unixSocket{}
	for _, n := range nets.all() {
		some, err := n.unixSockets()
		if err != nil {
			return err
		}
		maps.Copy(t.all, some)
	}
	t.waiting = map[uint32]*unixSocket{}
	for _, s := range t.all {
		for _, ino := range s.icons {
			t.waiting[ino] = s
		}
	}
	return nil
}

// examineUnix handles unix sockets of all types.
func (s *survey) examineUnix(it *item, fd int, sock *socketspb.Socket) error {
	d := s.unix.all[uint32(it.file().Ino)]
	if d == nil {
		if s.frozen {
			return fmt.Errorf("sock_diag does not know socket %d: %w", it.file().Ino, sdk.ErrKernel)
		}
		return nil // made since the list was read
	}
	msg := &socketspb.Unix{Socket: sock, Shutdown: uint32(d.shutdown)}
	var err error
	if msg.Name, err = kern.UnixName(fd); err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	ok := true
	switch {
	case d.state == stateListen:
		ok, err = s.examineUnixListener(it, fd, d, msg)
	case d.connected && it.file().Socket.Type == unix.SOCK_DGRAM:
		ok, err = s.examineDatagramPeer(it, fd, d, msg)
	case d.connected:
		ok, err = s.examinePeer(it, fd, d, msg)
	}
	if err != nil || !ok {
		return err
	}
	if err := s.findNode(it, d, msg); err != nil {
		return err
	}
	if old := s.before[it.res.Object]; old != nil && old.msg != nil {
		it.queue, it.carrying, it.rights = old.queue, old.carrying, old.rights
	} else if s.frozen && !msg.Listening {
		if ok, err = s.examineQueue(it, fd, msg); err != nil || !ok {
			return err
		}
	}
	it.kind, it.msg = kindUnix, msg
	return nil
}

func (s *survey) examineUnixListener(it *item, fd int, d *unixSocket, msg *socketspb.Unix) (bool, error) {
	for _, ino := range d.icons {
		client := s.unix.tree[ino]
		if client == nil {
			s.block(it, fmt.Sprintf("unix listener %s: a connection of %s outside the tree waits to be accepted", printName(msg.Name), holderOf(uint64(ino))),
				"let the program accept it, or stop the client first")
			return false, nil
		}
		msg.Waiting = append(msg.Waiting, client.res.Object)
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return false, fmt.Errorf("read credentials: %w", err)
	}
	msg.Credentials = &socketspb.Credentials{Uid: cred.Uid, Gid: cred.Gid}
	if p := s.sess.Tree.ByPID(int(cred.Pid)); p != nil { // else it has ended, or is not of the tree
		msg.Credentials.Task = uint32(p.ID)
		if err := s.noteCredentials(it, p, cred, msg.Name); err != nil {
			return false, err
		}
	}
	msg.Listening, msg.Backlog = true, d.backlog
	return true, nil
}

// noteCredentials tells of a listener whose clients will see another user: a
// process in a user namespace listens again with the ids that it has by then.
func (s *survey) noteCredentials(it *item, p *sdk.Process, cred *unix.Ucred, name []byte) error {
	if p.UserNamespace == 0 {
		return nil
	}
	status, err := procfs.Status(p.PID)
	if err != nil {
		return err
	}
	if uid, gid := status.UID[procfs.IDEffective], status.GID[procfs.IDEffective]; uid != cred.Uid || gid != cred.Gid {
		s.report.Note(it.res, fmt.Sprintf("unix listener %s: clients will see user %d and group %d, not %d and %d",
			printName(name), uid, gid, cred.Uid, cred.Gid))
	}
	return nil
}

// examinePeer handles connected sockets of the types that have connections.
func (s *survey) examinePeer(it *item, fd int, d *unixSocket, msg *socketspb.Unix) (bool, error) {
	switch peer := s.unix.tree[d.peer]; {
	case s.unix.waiting[d.ino] != nil:
		return s.examineWaiting(it, fd, d, msg)
	case d.peer == 0 && d.shutdown != shutdownBoth:
		s.block(it, "unix connection"+s.to(fd)+", whose other end cannot be found", "")
		return false, nil
	case d.peer == 0:
		p, err := pollSocket(fd)
		if err != nil {
			return false, err
		}
		msg.Orphan, msg.Reset_ = true, p.has(unix.POLLERR)
		if msg.PeerName, err = kern.UnixPeerName(fd); err != nil && !errors.Is(err, unix.ENOTCONN) {
			return false, fmt.Errorf("getpeername: %w", err)
		}
	case peer == nil:
		s.block(it, fmt.Sprintf("unix connection%s, held by %s outside the tree", s.to(fd), holderOf(uint64(d.peer))), "")
		return false, nil
	default:
		msg.Peer = peer.res.Object
	}
	return true, nil
}

// examineWaiting handles connections that were not accepted yet. What the client
// has sent meanwhile only accept(2) could bring to light.
func (s *survey) examineWaiting(it *item, fd int, d *unixSocket, msg *socketspb.Unix) (bool, error) {
	listener := s.unix.tree[s.unix.waiting[d.ino].ino]
	sent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	switch {
	case err != nil:
		return false, fmt.Errorf("read length of send queue: %w", err)
	case listener == nil:
		s.block(it, fmt.Sprintf("unix connection%s, which %s outside the tree has not accepted yet", s.to(fd),
			holderOf(uint64(s.unix.waiting[d.ino].ino))), "")
		return false, nil
	case sent > 0:
		s.block(it, "unix connection"+s.to(fd)+", which was not accepted yet, but has data", "let the program accept it")
		return false, nil
	}
	msg.WaitsFor = listener.res.Object
	return true, nil
}

// examineDatagramPeer handles connected datagram sockets: connect(2) says
// where datagrams go, and the other side need not know.
func (s *survey) examineDatagramPeer(it *item, fd int, d *unixSocket, msg *socketspb.Unix) (bool, error) {
	name, err := kern.UnixPeerName(fd)
	if err != nil && !errors.Is(err, unix.ENOTCONN) {
		return false, fmt.Errorf("getpeername: %w", err)
	}
	if d.peer == 0 {
		msg.Orphan, msg.PeerName = true, name
		return true, nil
	}
	peer := s.unix.tree[d.peer]
	if peer != nil {
		other := s.unix.all[d.peer]
		if len(name) == 0 && (other == nil || other.peer != d.ino) {
			s.block(it, "unix socket that is connected to one without a name which is not connected to it", "")
			return false, nil
		}
		msg.Peer = peer.res.Object
		return true, nil
	}
	if len(name) == 0 {
		s.block(it, fmt.Sprintf("unix socket that is connected to one held by %s outside the tree", holderOf(uint64(d.peer))), "")
		return false, nil
	}
	if !s.sess.Enabled("ext-unix-sk") {
		s.report.Add(it.res, sdk.LevelFlag, fmt.Sprintf("unix socket that is connected to %s, held by %s outside the tree",
			printName(name), holderOf(uint64(d.peer))), "--ext-unix-sk: connect it again by that name")
	}
	msg.Outside = name
	return true, nil
}

// to names where a socket is connected to.
func (s *survey) to(fd int) string {
	name, err := kern.UnixPeerName(fd)
	if err != nil || len(name) == 0 {
		return ""
	}
	return " to " + printName(name)
}

// findNode finds the file of a socket that is bound to a path. Those of
// connections are not needed: nobody can connect to them.
func (s *survey) findNode(it *item, d *unixSocket, msg *socketspb.Unix) error {
	name := string(msg.GetName())
	connection := d.connected && it.file().Socket.Type != unix.SOCK_DGRAM
	if name == "" || name[0] == 0 || connection {
		return nil
	}
	p := s.sess.Tree.Process(it.res.Task)
	if p == nil {
		return fmt.Errorf("task %d is not in the tree: %w", it.res.Task, sdk.ErrCorrupt)
	}
	start := "root"
	if !filepath.IsAbs(name) {
		start = "cwd"
	}
	base, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", p.PID, start))
	if err != nil {
		return fmt.Errorf("read %s: %w", start, err)
	}
	for _, b := range []string{base, "/"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(b, name), &st); err == nil && d.isNode(&st) {
			msg.Node = &socketspb.Node{Mode: st.Mode, Uid: st.Uid, Gid: st.Gid}
			if b != "/" {
				msg.Base = []byte(b)
			}
			return nil
		}
	}
	return nil // removed, or replaced: it is bound where nobody finds it
}

// printName is how reports print a name: '@' stands for the zero byte of
// abstract ones, as in /proc/net/unix.
func printName(name []byte) string {
	if len(name) == 0 {
		return "(not bound)"
	}
	if name[0] == 0 {
		return "@" + string(bytes.ReplaceAll(name[1:], []byte{0}, []byte{'@'}))
	}
	return string(name)
}

// holderOf names a process that has a socket open.
func holderOf(ino uint64) string {
	link := fmt.Sprintf("socket:[%d]", ino)
	dirs, err := filepath.Glob("/proc/[0-9]*/fd")
	if err != nil {
		return "a task"
	}
	for _, dir := range dirs {
		pid := strings.Split(dir, "/")[2]
		if pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if l, err := os.Readlink(dir + "/" + fd.Name()); err == nil && l == link {
				comm, err := os.ReadFile("/proc/" + pid + "/comm")
				if errors.Is(err, os.ErrNotExist) {
					break
				}
				return fmt.Sprintf("task %s (%s)", pid, strings.TrimSpace(string(comm)))
			}
		}
	}
	return "a task"
}
