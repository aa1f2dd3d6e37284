package sockets

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// Seal implements [sdk.Sealer]: the connections go live, as late as possible.
func (p *plugin) Seal(context.Context, *sdk.RestoreRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	locks := p.givenUp
	for _, c := range p.restored {
		locks = appendNew(locks, leftLock{c.network, c.msg.GetConnection().GetLock()})
	}
	for _, l := range locks {
		if l.name == "" {
			continue
		}
		if err := l.network.removeLock(l.name); err != nil {
			return err
		}
	}
	if err := p.nets.unlock(); err != nil {
		return err
	}
	for _, c := range p.restored {
		if err := c.goLive(); err != nil {
			return fmt.Errorf("continue connection %s: %w", c, err)
		}
	}
	return nil
}

// leftLock is a table that has waited for the restore.
type leftLock struct {
	network *network
	name    string
}

func appendNew(list []leftLock, l leftLock) []leftLock {
	if slices.Contains(list, l) {
		return list
	}
	return append(list, l)
}

// Resumed implements [sdk.Resumer].
func (p *plugin) Resumed(context.Context, *sdk.RestoreRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restored = nil
	return p.nets.leave()
}

// goLive lets the connection have a peer again.
func (c *restored) goLive() error {
	c.live = true
	if err := setTCP(c.fd, unix.TCP_REPAIR, repairOff); err != nil {
		return fmt.Errorf("end repair mode: %w", err)
	}
	// Which had forgotten it.
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, c.reuse); err != nil {
		return fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	if c.state() == stateSynSent {
		return c.connect()
	}
	if err := push(c.fd, c.unsent); err != nil {
		return fmt.Errorf("send %d bytes: %w", len(c.unsent), err)
	}
	return c.shrink()
}

// connect begins once more what was under way.
func (c *restored) connect() error {
	s := c.msg.GetSocket()
	remote, err := sockaddr(int(s.GetFamily()), c.msg.GetRemote())
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return fmt.Errorf("set flags: %w", err)
	}
	// Whatever becomes of it the program will see.
	if err := unix.Connect(c.fd, remote); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	return finish(c.fd, s)
}

// shrink gives the buffers the sizes that they had.
func (c *restored) shrink() error {
	for i, b := range []struct{ force, plain int }{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if err := setBuffer(c.fd, b.force, b.plain, uint32(c.buffers[i])); err != nil {
			return err
		}
	}
	// A size that was never set goes on following the traffic. Before Linux 5.14
	// this cannot be told.
	err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0)
	if err != nil && !notThere(err) {
		return fmt.Errorf("SO_BUF_LOCK: %w", err)
	}
	return setBuffers(c.fd, c.msg.GetSocket().GetBuffers())
}

// lockAgain takes connections that were live for a moment back from a restore
// that fails: they are locked once more, and closed silently when this process
// and the tasks end.
func (p *plugin) lockAgain() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	byTable := map[leftLock][]tuple{}
	for _, c := range p.restored {
		if c.live {
			l := leftLock{c.network, c.msg.GetConnection().GetLock()}
			byTable[l] = append(byTable[l], c.tuple())
		}
	}
	var errs []error
	for l, tuples := range byTable {
		if l.name != "" {
			errs = append(errs, l.network.leaveLock(l.name, tuples))
		}
	}
	for _, c := range p.restored {
		if c.live && c.state() != stateSynSent {
			errs = append(errs, setTCP(c.fd, unix.TCP_REPAIR, repairOn))
		}
	}
	p.restored = nil
	return errors.Join(errs...)
}
