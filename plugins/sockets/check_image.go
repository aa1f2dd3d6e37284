package sockets

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/procfs"
)

// CheckImage implements [sdk.ImageChecker]: every address that the image needs
// must be free. Ports are bound for a moment to find out.
func (p *plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) (_ []sdk.Finding, err error) {
	im, err := readRequest(req)
	if err != nil {
		return nil, err
	}
	defer im.close()
	if err := p.enterNetworks(im, req, ofJoined(req.Session)); err != nil {
		return nil, err
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		err = errors.Join(err, p.nets.leave())
	}()
	c := &imageCheck{
		files: map[uint64]*sdk.Resource{}, closing: req.Enabled(tcpClose),
		existing: map[*network]map[tuple]bool{}, named: map[*network]map[uint32]*unixSocket{},
	}
	for i := range req.Resources {
		c.files[req.Resources[i].Object] = &req.Resources[i]
	}
	for _, r := range im.inet {
		if r.network == nil {
			continue // nobody has anything in a namespace that will be made
		}
		if err := r.network.do(func() error { c.checkInet(r); return nil }); err != nil {
			return nil, err
		}
	}
	for _, r := range im.netlink {
		c.checkNetlink(r)
	}
	for _, r := range im.packet {
		c.checkPacket(r)
	}
	if err := p.checkUnix(c, im); err != nil {
		return nil, err
	}
	return c.report.Findings(), nil
}

type imageCheck struct {
	files   map[uint64]*sdk.Resource
	report  openfile.Report
	closing bool // connections are given up
	// existing are the connections of a namespace, once somebody asked, named its
	// unix sockets.
	existing map[*network]map[tuple]bool
	named    map[*network]map[uint32]*unixSocket
}

func (c *imageCheck) block(object uint64, text, help string) {
	r := c.files[object]
	if r == nil {
		r = &sdk.Resource{Object: object}
	}
	c.report.Block(r, text, help)
}

// checkInet makes and binds a socket. It stays open until all are checked, so
// that those of the image are bound together, as they will be.
func (c *imageCheck) checkInet(r *inetRecord) {
	var err error
	if r.msg.GetConnection() != nil {
		if c.closing {
			return
		}
		if r.rewritten != nil {
			c.block(r.object, fmt.Sprintf("connection %s->%s: %v", addrPort(r.msg.GetLocal()), addrPort(r.msg.GetRemote()), r.rewritten), "--"+tcpClose+": give it up")
			return
		}
		if c.existing[r.network] == nil {
			c.existing[r.network] = connectionsHere()
		}
		err = bindConnection(r, c.existing[r.network])
	} else {
		err = bindInet(r)
	}
	if err == nil {
		return
	}
	name := protocolName(kindOf(r.msg.GetSocket()))
	where := fmt.Sprintf("%s %s", name, addrPort(r.msg.GetLocal()))
	switch {
	case errors.Is(err, errConnected):
		c.block(r.object, fmt.Sprintf("%s: this machine has this connection with %s already", where, addrPort(r.msg.GetRemote())), "end the program that has it")
	case errors.Is(err, syscall.EADDRINUSE):
		holder, help := portHolder(r)
		c.block(r.object, where+": is in use by "+holder, help)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		c.block(r.object, where+": this machine does not have the address", "add it to an interface")
	case errors.Is(err, syscall.ENODEV):
		c.block(r.object, where+": "+err.Error(), "bring the interface up")
	case errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.ENOPROTOOPT) && name == "MPTCP":
		c.block(r.object, where+": this machine does not have the protocol", "set net.mptcp.enabled=1")
	default:
		c.block(r.object, where+": "+err.Error(), "")
	}
}

// stateTimeWait is what is left of a connection for a minute after its end. It
// keeps the port from programs that do not set SO_REUSEADDR.
const stateTimeWait = 6

// portHolder names who has a port, and what helps.
func portHolder(r *inetRecord) (holder, help string) {
	s := r.msg.GetSocket()
	tables := []string{"tcp", "tcp6"}
	if s.GetType() == unix.SOCK_DGRAM {
		tables = []string{"udp", "udp6"}
	}
	if s.GetProtocol() == unix.IPPROTO_UDPLITE {
		tables = []string{"udplite", "udplite6"}
	}
	want := addrPort(r.msg.GetLocal())
	holder, help = "another socket", "stop it, or restore elsewhere"
	for _, name := range tables {
		socks, err := procfs.InetSockets(name)
		if err != nil {
			continue
		}
		for _, o := range socks {
			ip := o.Local.Addr().Unmap()
			conflict := ip == want.Addr() || ip.IsUnspecified() || want.Addr().IsUnspecified()
			switch {
			case o.Local.Port() != want.Port() || !conflict:
			case o.Ino != 0:
				return holderOf(o.Ino), help
			case o.State == stateTimeWait:
				holder, help = "a connection in TIME-WAIT", "try again in a minute"
			}
		}
	}
	return holder, help
}

// checkUnix checks names and files.
func (p *plugin) checkUnix(c *imageCheck, im *image) error {
	for _, r := range im.unix {
		name := r.msg.GetName()
		network := r.network
		if network == nil {
			// Nobody has an abstract name in a namespace that will be made. A file may
			// belong to a socket of any: those are seen that are here.
			network = p.nets.own
			if len(name) > 0 && name[0] == 0 {
				name = nil
			}
		}
		all, err := c.namesOf(network)
		if err != nil {
			return err
		}
		switch {
		case len(name) == 0:
		case name[0] == 0:
			used, err := network.inUse(r.typ(), name)
			if err != nil {
				return err
			}
			if used {
				c.block(r.object, "unix socket "+printName(name)+": the name is in use by "+nameHolder(all, name), "stop it")
			}
		case r.msg.GetNode() != nil:
			c.checkNode(r, all)
		}
		if out := r.msg.GetOutside(); len(out) > 0 && nameFree(all, out) {
			c.block(r.object, "unix socket that was connected to "+printName(out)+": nobody has that name", "start the program that has it")
		}
	}
	return nil
}

// namesOf are the unix sockets of a namespace.
func (c *imageCheck) namesOf(n *network) (all map[uint32]*unixSocket, err error) {
	if c.named[n] == nil {
		c.named[n], err = n.unixSockets()
	}
	return c.named[n], err
}

// checkNode checks where the file of a socket will be.
func (c *imageCheck) checkNode(r *unixRecord, all map[uint32]*unixSocket) {
	path := nodePath(r.msg)
	what := "unix socket " + path
	if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
		c.block(r.object, fmt.Sprintf("%s: cannot be made in its directory: %v", what, err), "make the directory")
		return
	}
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return
	}
	if err != nil {
		c.block(r.object, fmt.Sprintf("%s: stat: %v", what, err), "")
		return
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		c.block(r.object, what+": something else is there", "move it away")
		return
	}
	for _, s := range all {
		// A connection keeps the file of its listener, but nobody reaches it.
		if s.isNode(&st) && !(s.connected && s.typ != unix.SOCK_DGRAM) {
			c.block(r.object, what+": is in use by "+holderOf(uint64(s.ino)), "stop it")
			return
		}
	}
}

func nameHolder(all map[uint32]*unixSocket, name []byte) string {
	for ino, s := range all {
		if string(s.name) == string(name) {
			return holderOf(uint64(ino))
		}
	}
	return "another socket"
}

// nameFree tells that no socket has the name. Relative paths cannot be told.
func nameFree(all map[uint32]*unixSocket, name []byte) bool {
	if name[0] != 0 && !strings.HasPrefix(string(name), "/") {
		return false
	}
	for _, s := range all {
		if string(s.name) == string(name) {
			return false
		}
	}
	return true
}
