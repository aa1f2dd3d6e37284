package sockets

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/firn-cr/firn/plugins/sockets/socketspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// RestoreObjects implements [sdk.ObjectRestorer]. All addresses are bound
// before anybody listens.
func (p *plugin) RestoreObjects(_ context.Context, req *sdk.RestoreRequest) (err error) {
	im, err := readRequest(req)
	if err != nil {
		return err
	}
	defer im.close()
	if err := p.enterNetworks(im, req, ofMembers(req.Session)); err != nil {
		return err
	}
	p.giveUpConnections(im, req)
	for _, r := range im.inet {
		if r.msg.GetConnection() != nil {
			continue
		}
		if err := r.network.do(func() error { return bindInet(r) }); err != nil {
			return fmt.Errorf("restore %s socket %d: %w", protocolName(kindOf(r.msg.GetSocket())), r.object, err)
		}
	}
	for _, r := range im.inet {
		if r.msg.GetConnection() != nil {
			continue
		}
		if err := r.network.do(func() error { return listenInet(r) }); err != nil {
			return fmt.Errorf("restore %s socket %d: %w", protocolName(kindOf(r.msg.GetSocket())), r.object, err)
		}
	}
	if err := p.restoreConnections(im); err != nil {
		return err
	}
	for _, r := range im.netlink {
		if err := r.restore(); err != nil {
			return fmt.Errorf("restore %s %d: %w", netlinkName(int(r.msg.GetSocket().GetProtocol())), r.object, err)
		}
	}
	for _, r := range im.packet {
		if err := r.restore(); err != nil {
			return fmt.Errorf("restore packet socket %d: %w", r.object, err)
		}
	}
	return p.restoreUnix(im, req)
}

// restoreUnix makes the unix sockets and hands over all. Queues in which files
// travel are filled by LinkFiles: these may be anybody's.
func (p *plugin) restoreUnix(im *image, req *sdk.RestoreRequest) (err error) {
	u := &unixRestore{im: im, tree: req.Tree}
	later := u.waits()
	defer func() {
		if !later || err != nil {
			err = errors.Join(err, u.close())
		}
	}()
	if err := u.make(); err != nil {
		return err
	}
	if !later {
		if err := u.finishAll(); err != nil {
			return err
		}
		return p.provide(im, req)
	}
	all := im.unix
	fds := make([]int, len(all))
	for i, r := range all {
		fds[i] = r.fd
	}
	if err := p.provide(im, req); err != nil {
		return err
	}
	for i, r := range all {
		r.fd = fds[i] // the session closes it
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u.im = &image{unix: all, byObject: im.byObject}
	p.unfinished, im.unix = u, nil
	return nil
}

// finishUnix does what was left to LinkFiles.
func (p *plugin) finishUnix(req *sdk.RestoreRequest) error {
	u := p.unfinished
	p.unfinished = nil
	if u == nil {
		return nil
	}
	u.fetch = req.Fetch
	err := u.finishAll()
	for _, r := range u.im.unix {
		closeFD(&r.node)
	}
	return errors.Join(err, u.close())
}

// enterNetworks enters the namespaces of sockets, as far as open has them. What an
// earlier restore in this process has left is let go.
func (p *plugin) enterNetworks(im *image, req *sdk.RestoreRequest, open func(*sdk.Resource) (*os.File, error)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.nets.leave(); err != nil {
		return err
	}
	if err := p.nets.enterAll(req.Session, open); err != nil {
		return err
	}
	for _, r := range im.inet {
		r.network = p.nets.of(r.msg.GetSocket().GetNetwork())
	}
	for _, r := range im.unix {
		r.network = p.nets.of(r.msg.GetSocket().GetNetwork())
	}
	for _, r := range im.netlink {
		r.network = p.nets.of(r.msg.GetSocket().GetNetwork())
	}
	for _, r := range im.packet {
		r.network = p.nets.of(r.msg.GetSocket().GetNetwork())
	}
	return nil
}

// giveUpConnections makes connections ones that have ended, if that is wanted.
func (p *plugin) giveUpConnections(im *image, req *sdk.RestoreRequest) {
	if !req.Enabled(tcpClose) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range im.inet {
		if c := r.msg.GetConnection(); c != nil {
			p.givenUp = appendNew(p.givenUp, leftLock{r.network, c.GetLock()})
			r.msg.Connection, r.msg.Remote, r.msg.Local, r.msg.Ended = nil, nil, nil, true
		}
	}
}

func kindOf(s *socketspb.Socket) kindOfSocket {
	return kindOfSocket{int(s.GetFamily()), int(s.GetType()), int(s.GetProtocol())}
}

// provide hands all sockets to the host.
func (p *plugin) provide(im *image, req *sdk.RestoreRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.states, p.listeners = nil, nil
	give := func(object uint64, fd *int, s *socketspb.Socket) error {
		if st := state(object, *fd, s); st != nil {
			p.states = append(p.states, *st)
		}
		err := req.Provide(object, *fd)
		*fd = -1 // belongs to the session now
		return err
	}
	for _, r := range im.inet {
		if err := give(r.object, &r.fd, r.msg.GetSocket()); err != nil {
			return err
		}
	}
	for _, r := range im.netlink {
		if err := give(r.object, &r.fd, r.msg.GetSocket()); err != nil {
			return err
		}
	}
	for _, r := range im.packet {
		if err := give(r.object, &r.fd, r.msg.GetSocket()); err != nil {
			return err
		}
	}
	for _, r := range im.unix {
		if r.msg.GetListening() && r.msg.GetCredentials() != nil {
			p.listeners = append(p.listeners, listener{object: r.object, fd: r.fd, msg: r.msg})
		}
		if err := give(r.object, &r.fd, r.msg.GetSocket()); err != nil {
			return err
		}
	}
	return nil
}

// LinkFiles implements [sdk.FileLinker]: it fills queues in which files travel, sets
// who gets the signals of sockets, and lets the tasks listen themselves.
func (p *plugin) LinkFiles(ctx context.Context, req *sdk.RestoreRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.finishUnix(req); err != nil {
		return err
	}
	if err := listenAs(ctx, req, p.listeners); err != nil {
		return err
	}
	return openfile.SetStates(ctx, req, p.states)
}
