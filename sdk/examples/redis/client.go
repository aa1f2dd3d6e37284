package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// listens tells whether a socket listens, and at which address it can be reached
// from here: "unix:PATH" or "tcp:HOST:PORT".
func listens(fd int) (string, bool) {
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		return "", false
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return "", false
	}
	switch a := name.(type) {
	case *unix.SockaddrUnix:
		return "unix:" + a.Name, a.Name != ""
	case *unix.SockaddrInet4:
		host := net.IP(a.Addr[:])
		if host.IsUnspecified() {
			host = net.IPv4(127, 0, 0, 1)
		}
		return fmt.Sprintf("tcp:%s:%d", host, a.Port), true
	}
	return "", false
}

// client speaks RESP with a server (https://redis.io/docs/reference/protocol-spec).
type client struct {
	net.Conn
	r *bufio.Reader
}

// with connects to a server, and does not return before the server has closed its
// end as well: a connection of ours would be one more thing to checkpoint.
func with(ctx context.Context, address, password string, f func(*client) error) error {
	network, where, _ := strings.Cut(address, ":")
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, where)
	if err != nil {
		return err
	}
	defer conn.Close()
	if at, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(at); err != nil {
			return err
		}
	}
	c := &client{conn, bufio.NewReader(conn)}
	if password != "" {
		if err := c.do("AUTH " + password); err != nil {
			return err
		}
	}
	if err := f(c); err != nil {
		return err
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, c.r)
	return err
}

// do sends a command that is answered by OK.
func (c *client) do(command string) error {
	answer, err := c.ask(command)
	if err == nil && answer != "OK" {
		err = fmt.Errorf("%s: %q", command, answer)
	}
	return err
}

// ask sends a command and returns a simple or bulk string.
func (c *client) ask(command string) (string, error) {
	if _, err := io.WriteString(c, command+"\r\n"); err != nil {
		return "", err
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(line[1:], "\r\n")
	switch line[0] {
	case '+':
		return text, nil
	case '-':
		return "", errors.New(text)
	case '$':
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return "", fmt.Errorf("answer %q", line)
		}
		body := make([]byte, n+len("\r\n"))
		_, err = io.ReadFull(c.r, body)
		return string(body[:n]), err
	}
	return "", fmt.Errorf("answer %q", line)
}

// awaitSaved waits until no child of the server writes a dump or a log.
func (c *client) awaitSaved(ctx context.Context) error {
	for {
		info, err := c.ask("INFO persistence")
		if err != nil {
			return err
		}
		if !strings.Contains(info, "rdb_bgsave_in_progress:1") && !strings.Contains(info, "aof_rewrite_in_progress:1") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a child is still saving: %w", context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
