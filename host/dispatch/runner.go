package dispatch

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/hashicorp/go-plugin/runner"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// pluginRunner is what go-plugin sees of a plugin's process. Nothing of it
// blocks once the process has ended, and go-plugin sees no byte of stderr.
type pluginRunner struct {
	start func() (*process, error)
	dir   string // where the plugin's socket must be
	out   *output

	mu       sync.Mutex
	proc     *process
	address  string
	refused  error // why a connection was refused
	accepted bool
}

var _ runner.Runner = (*pluginRunner)(nil)

// Start implements runner.Runner.
func (r *pluginRunner) Start(context.Context) error {
	p, err := r.start()
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.proc = p
	r.mu.Unlock()
	go r.out.read(p)
	return nil
}

func (r *pluginRunner) process() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proc
}

// Stdout implements runner.Runner: the handshake line only.
func (r *pluginRunner) Stdout() io.ReadCloser { return r.out.handshake }

// Stderr implements runner.Runner: nothing, until the process ends.
func (r *pluginRunner) Stderr() io.ReadCloser { return r.out.nothing }

// Wait implements runner.Runner.
func (r *pluginRunner) Wait(context.Context) error {
	if p := r.process(); p != nil {
		<-p.done
	}
	return nil
}

// Kill implements runner.Runner.
func (r *pluginRunner) Kill(context.Context) error {
	if p := r.process(); p != nil {
		p.kill()
	}
	return nil
}

// ID implements runner.Runner.
func (r *pluginRunner) ID() string {
	if p := r.process(); p != nil {
		return strconv.Itoa(p.proc.Pid)
	}
	return ""
}

// Name implements runner.Runner.
func (r *pluginRunner) Name() string { return r.out.name }

// Diagnose implements runner.Runner.
func (r *pluginRunner) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner. The plugin chose the address: it must
// be a socket in the directory that it was given.
func (r *pluginRunner) PluginToHost(network, address string) (string, string, error) {
	if network != "unix" || filepath.Dir(filepath.Clean(address)) != r.dir {
		return "", "", fmt.Errorf("plugin listens on %s %q, want a unix socket in %s: %w", network, address, r.dir, sdk.ErrNotPermitted)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.address = address
	return network, address, nil
}

// HostToPlugin implements runner.Runner.
func (r *pluginRunner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// dial connects to the plugin and makes sure that it is the plugin who listens
// there. The kernel tells: it remembers who called listen(2).
func (r *pluginRunner) dial(ctx context.Context, _ string) (net.Conn, error) {
	r.mu.Lock()
	address, pid := r.address, r.proc.proc.Pid
	r.mu.Unlock()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
	if err != nil {
		return nil, err
	}
	if err := checkPeer(conn.(*net.UnixConn), pid); err != nil {
		_ = conn.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused = err
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted = true
	return conn, nil
}

// connected tells whether a connection was made, to the right process.
func (r *pluginRunner) connected() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted && r.refused == nil
}

func (r *pluginRunner) refusal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

func checkPeer(conn *net.UnixConn, pid int) error {
	peer, err := kern.PeerPID(conn)
	if err != nil {
		return err
	}
	if peer != pid {
		return fmt.Errorf("the peer is process %d, the plugin is %d: %w", peer, pid, sdk.ErrNotPermitted)
	}
	return nil
}

// pass sends a descriptor to the plugin.
func pass(socket *os.File, message string, f *os.File) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	file, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	cerr := file.Control(func(fd uintptr) {
		err = raw.Control(func(s uintptr) {
			serr = unix.Sendmsg(int(s), []byte(message), unix.UnixRights(int(fd)), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
	})
	for _, e := range []error{cerr, err, serr} {
		if e != nil {
			return e
		}
	}
	return nil
}
