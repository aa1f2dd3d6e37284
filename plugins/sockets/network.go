package sockets

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/namespace"
)

// network is a network namespace in which there are sockets. A socket belongs to
// the one in which the thread was that made it, for ever.
type network struct {
	// object is that of the namespace in the image; 0 is where this process is.
	object uint64
	ino    uint64
	// calls reach a thread that lives in the namespace, until left is closed; nil for
	// where this process is.
	calls chan func()
	left  chan struct{}
	// usual are the options of new sockets; those that were read before the freeze
	// need not be read again.
	usual defaults
	lock  *netLock
}

// here is the network namespace of this process.
func here() (*network, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &st); err != nil {
		return nil, fmt.Errorf("stat network namespace: %w", err)
	}
	n := &network{ino: st.Ino}
	n.usual.network = n
	return n, nil
}

// enter starts a thread in a network namespace.
func enter(ns *os.File, object uint64) (*network, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat network namespace: %w", err)
	}
	n := &network{object: object, ino: st.Ino, calls: make(chan func()), left: make(chan struct{})}
	n.usual.network = n
	entered := make(chan error, 2)
	go func() {
		entered <- namespace.Within(ns, func() error {
			entered <- nil
			for {
				select {
				case f := <-n.calls:
					f()
				case <-n.left:
					return nil
				}
			}
		})
	}()
	return n, <-entered
}

// do calls f in the namespace.
func (n *network) do(f func() error) error {
	if n == nil || n.calls == nil {
		return f()
	}
	done := make(chan error, 1)
	select {
	case n.calls <- func() { done <- f() }:
		return <-done
	case <-n.left:
		return fmt.Errorf("network namespace %d was left: %w", n.object, sdk.ErrAborted)
	}
}

// socket makes a socket in the namespace.
func (n *network) socket(family, typ, protocol int) (fd int, err error) {
	err = n.do(func() error {
		fd, err = unix.Socket(family, typ|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	return fd, nil
}

// networks are the network namespaces of a session, by the objects that they have
// in the image. The one of this process is always there.
type networks struct {
	own      *network
	byObject map[uint64]*network
}

func (ns *networks) all() []*network {
	out := []*network{ns.own}
	for _, n := range ns.byObject {
		out = append(out, n)
	}
	return out
}

// of finds a namespace by its object; nil if it is not there.
func (ns *networks) of(object uint64) *network {
	if object == 0 {
		return ns.own
	}
	return ns.byObject[object]
}

// byInode finds a namespace by its number.
func (ns *networks) byInode(ino uint64) *network {
	for _, n := range ns.all() {
		if n.ino == ino {
			return n
		}
	}
	return nil
}

// unlock releases all locks.
func (ns *networks) unlock() error {
	var errs []error
	for _, n := range ns.all() {
		if n != nil {
			errs = append(errs, n.lock.release())
			n.lock = nil
		}
	}
	return errors.Join(errs...)
}

// leave ends what is held for the namespaces, but for the options that are known.
func (ns *networks) leave() error {
	err := ns.unlock()
	for _, n := range ns.byObject {
		close(n.left) // its thread ends; the namespace goes on without it
	}
	ns.byObject = nil
	return err
}

// enterAll enters the namespaces in which processes of the tree live. what opens
// one, or nothing.
func (ns *networks) enterAll(sess *sdk.Session, open func(*sdk.Resource) (*os.File, error)) error {
	if ns.own == nil {
		own, err := here()
		if err != nil {
			return err
		}
		ns.own = own
	}
	for i := range sess.Attended {
		r := &sess.Attended[i]
		if r.Namespace == nil || ns.byObject[r.Object] != nil || len(namespace.Members(sess, r)) == 0 {
			continue
		}
		f, err := open(r)
		if err != nil {
			return fmt.Errorf("network namespace %d: %w", r.Object, err)
		}
		if f == nil {
			continue
		}
		n, err := enter(f, r.Object)
		err = errors.Join(err, f.Close())
		if err != nil {
			return fmt.Errorf("network namespace %d: %w", r.Object, err)
		}
		if ns.byObject == nil {
			ns.byObject = map[uint64]*network{}
		}
		ns.byObject[r.Object] = n
	}
	return nil
}

// ofMembers opens the namespace in which its processes are now. Those of a tree that
// runs may have ended, and left it to nobody.
func ofMembers(sess *sdk.Session) func(*sdk.Resource) (*os.File, error) {
	return func(r *sdk.Resource) (*os.File, error) {
		for _, p := range namespace.Members(sess, r) {
			f, err := namespace.Open(p.PID, "net")
			if err == nil || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				return f, err
			}
		}
		return nil, nil
	}
}

// ofJoined opens a namespace that the caller gives; the others are not there yet.
func ofJoined(sess *sdk.Session) func(*sdk.Resource) (*os.File, error) {
	return func(r *sdk.Resource) (*os.File, error) {
		path, ok := namespace.Joined(sess, r)
		if !ok {
			return nil, nil
		}
		f, err := namespace.OpenPath(path, "net", unix.CLONE_NEWNET)
		if err != nil {
			return nil, nil // whoever restores namespaces says so
		}
		return f, nil
	}
}

// networkOf finds the namespace of a socket. Without CAP_NET_ADMIN nothing tells,
// and it is taken for one of here. nil is one that is not the tree's.
func (s *survey) networkOf(fd int) (*network, error) {
	ns, err := kern.SocketNamespace(fd)
	if errors.Is(err, unix.EPERM) {
		return s.nets.own, nil
	}
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer unix.Close(ns)
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return s.nets.byInode(st.Ino), nil
}
