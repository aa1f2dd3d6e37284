package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Constants of sock_diag(7) and linux/unix_diag.h.
const (
	sockDiagByFamily = 20
	unixDiagReqSize  = 24
	unixDiagMsgSize  = 16

	showName  = 1 << 0
	showVFS   = 1 << 1
	showPeer  = 1 << 2
	showIcons = 1 << 3
	showRQLen = 1 << 4

	attrVFS      = 1
	attrPeer     = 2
	attrIcons    = 3
	attrRQLen    = 4
	attrShutdown = 6
	attrName     = 0
)

// unixSocket is what the kernel tells about a unix socket.
type unixSocket struct {
	ino        uint32
	typ, state uint8
	// name is as in [kern.UnixName].
	name []byte
	// node identifies the file that the socket was bound to: the low 32 bits of
	// its inode number and the kernel's device number; 0 if it is none.
	nodeIno, nodeDev uint32
	// connected tells that there is a peer, peer its inode: 0 if it was closed,
	// or was not accepted yet.
	connected bool
	peer      uint32
	// icons are the inodes of clients that wait to be accepted.
	icons []uint32
	// backlog is the length of a listener's queue.
	backlog  uint32
	shutdown uint8
}

// dial opens netlink in a namespace.
func (n *network) dial(family int) (conn *netlink.Conn, err error) {
	err = n.do(func() error {
		conn, err = netlink.Dial(family, nil)
		return err
	})
	return conn, err
}

// unixSockets lists the unix sockets of a namespace.
func (n *network) unixSockets() (_ map[uint32]*unixSocket, err error) {
	conn, err := n.dial(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	// struct unix_diag_req
	req := make([]byte, unixDiagReqSize)
	req[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(req[4:], ^uint32(0)) // all states
	binary.NativeEndian.PutUint32(req[12:], showName|showVFS|showPeer|showIcons|showRQLen)
	msgs, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   req,
	})
	if err != nil {
		return nil, fmt.Errorf("list unix sockets: %w", err)
	}
	out := make(map[uint32]*unixSocket, len(msgs))
	for _, m := range msgs {
		s, err := parseUnixDiag(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list unix sockets: %w", err)
		}
		out[s.ino] = s
	}
	return out, nil
}

// parseUnixDiag parses struct unix_diag_msg and the attributes behind it:
//
//	0 u8 family  1 u8 type  2 u8 state  3 u8 zero  4 u32 inode  8 u32 cookie[2]
func parseUnixDiag(b []byte) (*unixSocket, error) {
	if len(b) < unixDiagMsgSize {
		return nil, fmt.Errorf("message of %d bytes", len(b))
	}
	s := &unixSocket{typ: b[1], state: b[2], ino: binary.NativeEndian.Uint32(b[4:])}
	ad, err := netlink.NewAttributeDecoder(b[unixDiagMsgSize:])
	if err != nil {
		return nil, err
	}
	for ad.Next() {
		v := ad.Bytes()
		switch ad.Type() {
		case attrName:
			s.name = trimPath(v)
		case attrVFS:
			if len(v) >= 8 {
				s.nodeIno, s.nodeDev = binary.NativeEndian.Uint32(v), binary.NativeEndian.Uint32(v[4:])
			}
		case attrPeer:
			if len(v) >= 4 {
				s.connected, s.peer = true, binary.NativeEndian.Uint32(v)
			}
		case attrIcons:
			for ; len(v) >= 4; v = v[4:] {
				s.icons = append(s.icons, binary.NativeEndian.Uint32(v))
			}
		case attrRQLen:
			if len(v) >= 8 {
				s.backlog = binary.NativeEndian.Uint32(v[4:])
			}
		case attrShutdown:
			if len(v) >= 1 {
				s.shutdown = v[0]
			}
		}
	}
	return s, ad.Err()
}

// trimPath cuts the zero byte behind a path; abstract names start with one.
func trimPath(b []byte) []byte {
	if len(b) == 0 || b[0] == 0 {
		return b
	}
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return b
}

// isNode tells whether a file is the one that the socket was bound to.
func (s *unixSocket) isNode(st *unix.Stat_t) bool {
	return s.nodeIno != 0 && st.Mode&unix.S_IFMT == unix.S_IFSOCK && uint32(st.Ino) == s.nodeIno
}
