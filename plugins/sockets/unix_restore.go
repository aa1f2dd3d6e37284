package sockets

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// unixRestore makes the unix sockets of an image. The order is that of the steps
// in make and finishAll: names of connections are bound and given up before listeners
// take them, queues are filled while everything can still be written.
type unixRestore struct {
	im  *image
	box sandbox
	// ghosts are the closed peers of orphans, by the orphan's object. They are
	// closed when the queues are filled.
	ghosts map[uint64]int
	// tree has the processes that sent messages.
	tree *sdk.Tree
	// fetch returns a file that travels in a queue.
	fetch func(object uint64) (int, error)
}

// unixStep is done for every socket before the next one.
type unixStep struct {
	verb string
	do   func(*unixRecord) error
}

// make makes all sockets, with their names.
func (u *unixRestore) make() error {
	u.ghosts = map[uint64]int{}
	return u.steps(unixStep{"make", u.connection}, unixStep{"make", u.single}, unixStep{"bind", u.bind})
}

// finishAll fills the queues and does what has to follow it.
func (u *unixRestore) finishAll() error {
	return u.steps(
		unixStep{"fill queue of", u.fill}, unixStep{"connect", u.connect}, unixStep{"bury the peer of", u.bury},
		unixStep{"shut down", u.shutdown}, unixStep{"complete", u.complete}, unixStep{"queue clients of", u.queueClients},
	)
}

// close closes all but the sockets.
func (u *unixRestore) close() error {
	for object, fd := range u.ghosts {
		unix.Close(fd)
		delete(u.ghosts, object)
	}
	return u.box.close()
}

func (u *unixRestore) steps(steps ...unixStep) error {
	for _, step := range steps {
		for _, r := range u.im.unix {
			if err := step.do(r); err != nil {
				return fmt.Errorf("%s unix socket %d: %w", step.verb, r.object, err)
			}
		}
	}
	return nil
}

// connection makes both ends of a connection, or one end and a ghost.
func (u *unixRestore) connection(r *unixRecord) error {
	peer := u.im.byObject[r.msg.GetPeer()]
	switch {
	case r.fd >= 0:
		return nil // with its peer
	case r.msg.GetOrphan():
		fd, ghost, err := u.pair(r, r.msg.GetPeerName())
		r.fd, u.ghosts[r.object] = fd, ghost
		if err != nil {
			delete(u.ghosts, r.object)
		}
		return err
	case peer != nil && isPair(r.object, r.msg, peer.msg) && isPair(peer.object, peer.msg, r.msg):
		var err error
		r.fd, peer.fd, err = u.pair(r, peer.msg.GetName())
		return err
	case peer != nil && !r.dgram():
		return corrupt(kindUnix, r.object, "its peer %d is not connected to it", peer.object)
	}
	return nil
}

// pair makes two connected sockets. Datagram sockets are bound later, as those
// without a connection are.
func (u *unixRestore) pair(r *unixRecord, peerName []byte) (int, int, error) {
	name := r.msg.GetName()
	if r.dgram() || len(name) == 0 && len(peerName) == 0 {
		var p [2]int
		err := r.network.do(func() (err error) {
			p, err = unix.Socketpair(unix.AF_UNIX, r.typ()|unix.SOCK_CLOEXEC, int(r.msg.GetSocket().GetProtocol()))
			return err
		})
		if err != nil {
			return -1, -1, fmt.Errorf("socketpair: %w", err)
		}
		return p[0], p[1], nil
	}
	// The end that was accepted has the name of the listener, and the end with
	// a name is mostly that one.
	if len(name) == 0 || len(peerName) != 0 && u.listens(peerName) {
		server, client, err := u.accepted(r, peerName, name)
		return client, server, err
	}
	return u.accepted(r, name, peerName)
}

// listens tells whether a listener of the image has the name.
func (u *unixRestore) listens(name []byte) bool {
	for _, r := range u.im.unix {
		if r.msg.GetListening() && string(r.msg.GetName()) == string(name) {
			return true
		}
	}
	return false
}

// accepted makes a connection through a listener of that name, which is given
// up again. Paths are bound in the sandbox.
func (u *unixRestore) accepted(r *unixRecord, serverName, clientName []byte) (server, client int, err error) {
	server, client = -1, -1
	connect := func() error {
		server, client, err = r.network.connectThrough(r.typ(), serverName, clientName)
		return err
	}
	path := serverName
	if path[0] == 0 && len(clientName) > 0 {
		path = clientName
	}
	if path[0] == 0 {
		return server, client, connect()
	}
	err = u.box.run(string(path), connect)
	return server, client, err
}

func (n *network) connectThrough(typ int, serverName, clientName []byte) (server, client int, err error) {
	listener, err := n.socket(unix.AF_UNIX, typ, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("listener: %w", err)
	}
	defer unix.Close(listener)
	if client, err = n.socket(unix.AF_UNIX, typ, 0); err != nil {
		return -1, -1, fmt.Errorf("client: %w", err)
	}
	server = -1
	err = func() error {
		if err := kern.BindUnix(listener, serverName); err != nil {
			return fmt.Errorf("bind to %s: %w", printName(serverName), err)
		}
		if err := unix.Listen(listener, 1); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if len(clientName) > 0 {
			if err := kern.BindUnix(client, clientName); err != nil {
				return fmt.Errorf("bind to %s: %w", printName(clientName), err)
			}
		}
		if err := kern.ConnectUnix(client, serverName); err != nil {
			return fmt.Errorf("connect to %s: %w", printName(serverName), err)
		}
		if server, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		return nil
	}()
	if err != nil {
		unix.Close(client)
		return -1, -1, err
	}
	return server, client, nil
}

// single makes a socket that is no connection.
func (u *unixRestore) single(r *unixRecord) error {
	if r.fd >= 0 {
		return nil
	}
	fd, err := r.network.socket(unix.AF_UNIX, r.typ(), int(r.msg.GetSocket().GetProtocol()))
	if err != nil {
		return err
	}
	r.fd = fd
	return nil
}

// isConnection tells that the socket got its name when it was connected.
func (r *unixRecord) isConnection() bool {
	return !r.dgram() && (r.msg.GetPeer() != 0 || r.msg.GetOrphan())
}

// bind binds a socket to its name: its file is made anew, with the old mode
// and owner.
func (u *unixRestore) bind(r *unixRecord) error {
	name := r.msg.GetName()
	if len(name) == 0 || r.isConnection() {
		return nil
	}
	if name[0] == 0 {
		return bindTo(r.fd, name)
	}
	if r.msg.GetNode() == nil {
		return u.box.run(string(name), func() (err error) {
			if err := bindTo(r.fd, name); err != nil {
				return err
			}
			r.node, err = openNode(string(name))
			return err
		})
	}
	return bindNode(r)
}

func bindTo(fd int, name []byte) error {
	if err := kern.BindUnix(fd, name); err != nil {
		return fmt.Errorf("bind to %s: %w", printName(name), err)
	}
	return nil
}

// nodePath is where the file of a socket is.
func nodePath(m *socketspb.Unix) string {
	return filepath.Join("/", string(m.GetBase()), string(m.GetName()))
}

func bindNode(r *unixRecord) (err error) {
	name, base, node := r.msg.GetName(), string(r.msg.GetBase()), r.msg.GetNode()
	path := nodePath(r.msg)
	if err := removeStale(path); err != nil {
		return err
	}
	// The file gets no more rights than it had, not even for a moment.
	if err := unix.Fchmod(r.fd, node.GetMode()&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	bind := func() error { return bindTo(r.fd, name) }
	switch {
	case name[0] != '/':
		err = inDir(filepath.Join("/", base), bind)
	case base != "":
		err = inRoot(base, bind)
	default:
		err = bind()
	}
	if err != nil {
		return err
	}
	if err := unix.Lchown(path, int(node.GetUid()), int(node.GetGid())); err != nil {
		return fmt.Errorf("set owner of %s: %w", path, err)
	}
	if err := unix.Chmod(path, node.GetMode()&0o7777); err != nil {
		return fmt.Errorf("set mode of %s: %w", path, err)
	}
	r.node, err = openNode(path)
	return err
}

// address is the name by which others reach a socket now.
func (r *unixRecord) address() []byte {
	if r.node >= 0 {
		return nodeName(r.node)
	}
	return r.msg.GetName()
}

// connect connects a datagram socket to one of the tree or outside.
func (u *unixRestore) connect(r *unixRecord) error {
	if !r.dgram() || r.msg.GetOrphan() {
		return nil
	}
	if out := r.msg.GetOutside(); len(out) > 0 {
		if err := kern.ConnectUnix(r.fd, out); err != nil {
			return fmt.Errorf("connect to %s: %w", printName(out), err)
		}
		return nil
	}
	peer := u.im.byObject[r.msg.GetPeer()]
	if peer == nil || isPair(r.object, r.msg, peer.msg) {
		return nil
	}
	if err := kern.ConnectUnix(r.fd, peer.address()); err != nil {
		return fmt.Errorf("connect to %s: %w", printName(peer.msg.GetName()), err)
	}
	return nil
}

// bury closes the peer of an orphan. A peer that is closed with something
// unread resets the connection.
func (u *unixRestore) bury(r *unixRecord) error {
	ghost, ok := u.ghosts[r.object]
	if !ok {
		return nil
	}
	if r.msg.GetReset_() {
		if _, err := unix.Write(r.fd, []byte{0}); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	delete(u.ghosts, r.object)
	return unix.Close(ghost)
}

func (u *unixRestore) shutdown(r *unixRecord) error {
	if r.msg.GetOrphan() && !r.dgram() {
		return nil // was done by the peer's end
	}
	if r.msg.GetWaitsFor() != 0 {
		return nil // is connected later
	}
	return shutdownSocket(r.fd, r.msg.GetShutdown())
}

// queueClients connects those who wait for a listener, in the old order. They get
// their options afterwards: SO_PASSCRED would have connect(2) give them a name.
func (u *unixRestore) queueClients(r *unixRecord) error {
	for _, object := range r.msg.GetWaiting() {
		client := u.im.byObject[object]
		if err := kern.ConnectUnix(client.fd, r.address()); err != nil {
			return fmt.Errorf("socket %d: connect: %w", object, err)
		}
		err := shutdownSocket(client.fd, client.msg.GetShutdown())
		if err == nil {
			err = u.finish(client)
		}
		if err != nil {
			return fmt.Errorf("socket %d: %w", object, err)
		}
	}
	return nil
}

// complete makes a listener listen, and sets options and flags.
func (u *unixRestore) complete(r *unixRecord) error {
	if r.msg.GetListening() {
		if err := unix.Listen(r.fd, int(r.msg.GetBacklog())); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	if r.msg.GetWaitsFor() != 0 {
		return nil
	}
	return u.finish(r)
}

func (u *unixRestore) finish(r *unixRecord) error {
	if err := configure(r.fd, r.msg.GetSocket()); err != nil {
		return err
	}
	return finish(r.fd, r.msg.GetSocket())
}
