package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/internal/protocol"
	"github.com/firn-cr/firn/sdk/kern"
)

// imageWait bounds the wait for the image's descriptor. The host sends it
// before it opens the session.
const imageWait = 10 * time.Second

// processLog makes the log of a plugin process: lines of JSON on stderr, which
// the host parses. It becomes hclog's default.
func processLog() hclog.Logger {
	level := hclog.LevelFromString(os.Getenv(protocol.LogLevelKey))
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	log := hclog.New(&hclog.LoggerOptions{Level: level, Output: os.Stderr, JSONFormat: true})
	hclog.SetDefault(log)
	return log
}

// adoptDescriptors checks that the descriptors of the protocol are there and
// keeps them from programs that the plugin may start.
func adoptDescriptors() error {
	for fd, want := range map[int]uint32{protocol.FDLifeline: unix.S_IFIFO, protocol.FDPassing: unix.S_IFSOCK} {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("inherited descriptor %d: %w: start this plugin through firn", fd, err)
		}
		if st.Mode&unix.S_IFMT != want {
			return fmt.Errorf("inherited descriptor %d is of another type: start this plugin through firn", fd)
		}
	}
	for fd := protocol.FDArena; fd <= protocol.FDProgram; fd++ {
		unix.CloseOnExec(fd)
	}
	return nil
}

// followHost makes the process end with its host: when the lifeline reports
// the end of file, and, should this process be stuck, by a signal.
func followHost() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set parent death signal: %w", err)
	}
	if err := unix.SetNonblock(protocol.FDLifeline, true); err != nil {
		return fmt.Errorf("lifeline: %w", err)
	}
	lifeline := os.NewFile(protocol.FDLifeline, "lifeline")
	go func() {
		_, _ = io.Copy(io.Discard, lifeline)
		os.Exit(0)
	}()
	return nil
}

// attachArena attaches to the inherited arena.
func attachArena(size uint64, segmentSize uint32) (*hbuf.Producer, error) {
	files := make([]*os.File, 0, 3)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, fd := range []int{protocol.FDArena, protocol.FDSubmit, protocol.FDComplete} {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("inherited descriptor %d: %w", fd, err)
		}
		files = append(files, os.NewFile(uintptr(dup), "arena"))
	}
	return hbuf.Attach(files[0], files[1], files[2], size, segmentSize)
}

// receiveImage takes the image's descriptor from the passing socket.
func receiveImage() (*os.File, error) {
	poll := []unix.PollFd{{Fd: protocol.FDPassing, Events: unix.POLLIN}}
	deadline := time.Now().Add(imageWait)
	for {
		n, err := unix.Poll(poll, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("poll: %w", err)
		}
		if n == 0 {
			return nil, fmt.Errorf("no descriptor came: %w", ErrTimeout)
		}
		break
	}
	return receiveFile(protocol.FDPassing, protocol.PassImage)
}

// receiveFile receives one message with exactly one descriptor.
func receiveFile(socket int, want string) (*os.File, error) {
	data, control := make([]byte, 64), make([]byte, unix.CmsgSpace(4*4))
	n, cn, flags, _, err := unix.Recvmsg(socket, data, control, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("recvmsg: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:cn])
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) == 1 && string(data[:n]) == want && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) == 0 {
		return os.NewFile(uintptr(fds[0]), "image"), nil
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return nil, fmt.Errorf("message %q with %d descriptors, want %q with one: %w", data[:n], len(fds), want, ErrCorrupt)
}

// peerCredentials lets only one process connect.
type peerCredentials struct {
	credentials.TransportCredentials
	pid int
}

// newPeerCredentials returns credentials for a server whose only client is
// the process pid.
func newPeerCredentials(pid int) credentials.TransportCredentials {
	return &peerCredentials{TransportCredentials: insecure.NewCredentials(), pid: pid}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := checkPeer(conn, c.pid); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return c.TransportCredentials.ServerHandshake(conn)
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("the credentials are those of a server")
}

// Clone implements credentials.TransportCredentials.
func (c *peerCredentials) Clone() credentials.TransportCredentials {
	return &peerCredentials{TransportCredentials: c.TransportCredentials.Clone(), pid: c.pid}
}

// checkPeer makes sure that the peer of a connection is the process pid.
func checkPeer(conn net.Conn, pid int) error {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("peer is not on a unix socket: %w", ErrNotPermitted)
	}
	peer, err := kern.PeerPID(uc)
	if err != nil {
		return err
	}
	if peer != pid {
		return fmt.Errorf("peer is process %d, want %d: %w", peer, pid, ErrNotPermitted)
	}
	return nil
}
