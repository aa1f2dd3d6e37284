package sockets

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// A reader is a process that reads connections. A socket in repair mode refuses
// its program everything, so whoever puts it there must put it back; but this
// plugin may be killed at any moment. The reader is in a session of its own and
// gets no signal when somebody dies: the microseconds that it needs for a socket
// it has, and then it sees that nobody wants the next one. Should the reader be
// killed, the plugin puts the sockets back that it had given to it.
type reader struct {
	cmd     *exec.Cmd
	socket  *os.File
	answers *gob.Decoder
}

// readerVariable makes a process of this program a reader.
const readerVariable = "FIRN_SOCKETS_READER"

// maxBatch is how many descriptors go to a reader at once; the kernel passes
// 253 (SCM_MAX_FD).
const maxBatch = 64

// Main is the whole program if the process is a reader; else it does nothing.
// The program calls it first of all.
func Main() {
	if os.Getenv(readerVariable) == "" {
		return
	}
	if err := readAll(os.NewFile(3, "plugin")); err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// newReader starts a reader.
func newReader() (*reader, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start reader of connections: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "reader")
	defer theirs.Close()
	r := &reader{socket: os.NewFile(uintptr(fds[0]), "reader")}
	r.answers = gob.NewDecoder(r.socket)
	r.cmd = exec.Command("/proc/self/exe")
	r.cmd.Args[0] = os.Args[0]
	r.cmd.Env = []string{readerVariable + "=1", "GOMAXPROCS=1"}
	r.cmd.ExtraFiles = []*os.File{theirs}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start reader of connections: %w", err), r.socket.Close())
	}
	return r, nil
}

// close ends the reader. Closing nil does nothing.
func (r *reader) close() error {
	if r == nil {
		return nil
	}
	return errors.Join(r.socket.Close(), r.cmd.Wait())
}

// read has the reader read connections, in order.
func (r *reader) read(conns []*savedConnection) ([]rawConnection, error) {
	out := make([]rawConnection, 0, len(conns))
	for len(conns) > 0 {
		some := conns[:min(len(conns), maxBatch)]
		conns = conns[len(some):]
		var fds []int
		for _, c := range some {
			fds = append(fds, c.fd)
		}
		err := unix.Sendmsg(int(r.socket.Fd()), []byte{byte(len(fds))}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		for _, conn := range some {
			var c rawConnection
			if err == nil {
				err = r.answers.Decode(&c)
			}
			if err != nil {
				putBack(some)
				return nil, fmt.Errorf("the reader of connections does not answer: %w", err)
			}
			if c.Problem != "" {
				return nil, fmt.Errorf("connection %s: %s", conn, c.Problem)
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// putBack ends the repair mode in which a dead reader may have left one of some
// sockets.
func putBack(conns []*savedConnection) {
	for _, c := range conns {
		if on, err := unix.GetsockoptInt(c.fd, unix.SOL_TCP, unix.TCP_REPAIR); err == nil && on != 0 {
			// What is allowed to switch it on can switch it off.
			_ = setTCP(c.fd, unix.TCP_REPAIR, repairOffQuiet)
			_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, c.reuse)
		}
	}
}

// readAll is the reader's work.
func readAll(plugin *os.File) error {
	answers := gob.NewEncoder(plugin)
	count := make([]byte, 1)
	oob := make([]byte, unix.CmsgSpace(4*maxBatch))
	for {
		n, oobn, _, _, err := unix.Recvmsg(int(plugin.Fd()), count, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			return err
		}
		for _, fd := range fds {
			c, err := readConnection(fd)
			if err == nil {
				err = c.check()
			}
			if err != nil {
				c = rawConnection{Problem: err.Error()}
			}
			unix.Close(fd)
			if err := answers.Encode(&c); err != nil {
				return err
			}
		}
	}
}
