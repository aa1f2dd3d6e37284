package sockets

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// Values of TCP_REPAIR and its queues (linux/tcp.h).
const (
	repairOn       = 1
	repairOff      = 0  // with a probe, by which the peer notices that we are back
	repairOffQuiet = -1 // TCP_REPAIR_OFF_NO_WP, since Linux 4.19

	receiveQueue = 1
	sendQueue    = 2
)

// Bits of tcpi_options (linux/tcp.h) and the options of TCP_REPAIR_OPTIONS
// (net/tcp.h).
const (
	infoTimestamps = 1
	infoSACK       = 2
	infoScale      = 4

	optMSS        = 2
	optScale      = 3
	optSACK       = 4
	optTimestamps = 8
)

// repairWindow is struct tcp_repair_window.
type repairWindow struct{ SendWL1, Send, Max, Receive, ReceiveWUP uint32 }

// repairOption is struct tcp_repair_opt.
type repairOption struct{ Code, Value uint32 }

// rawConnection is what TCP_REPAIR tells of a connection.
type rawConnection struct {
	// Problem is why nothing was read.
	Problem               string
	State, Options        uint8
	SendScale, RecvScale  uint8
	WriteSeq, ReceiveNext uint32
	// Unacked is SIOCOUTQ, Unsent SIOCOUTQNSD; both count a FIN.
	Unacked, Unsent uint32
	Send, Receive   []byte
	MSS, Timestamp  uint32
	Segment         uint32 // tcpi_snd_mss
	Window          repairWindow
}

// readConnection reads a connection that nobody uses meanwhile: its tasks stand
// still and its packets are kept away. For some microseconds, in which nothing
// may interrupt this function, the socket is in repair mode.
func readConnection(fd int) (c rawConnection, err error) {
	// Room for the queues is made before.
	sent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return c, fmt.Errorf("SIOCOUTQ: %w", err)
	}
	got, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	if err != nil {
		return c, fmt.Errorf("SIOCINQ: %w", err)
	}
	send, receive := make([]byte, sent+1), make([]byte, got+1)
	reuse, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	if err != nil {
		return c, fmt.Errorf("SO_REUSEADDR: %w", err)
	}
	peek, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF)
	if err != nil {
		peek = -1 // not for TCP before Linux 6.9
	}
	if err := setTCP(fd, unix.TCP_REPAIR, repairOn); err != nil {
		return c, fmt.Errorf("TCP_REPAIR: %w", err)
	}
	err = c.read(fd, send, receive, peek)
	// It had worked, so it does. Repair mode has forgotten SO_REUSEADDR.
	err = errors.Join(err, setTCP(fd, unix.TCP_REPAIR, repairOffQuiet))
	if reuse != 0 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse))
	}
	return c, err
}

// read reads what only repair mode shows.
func (c *rawConnection) read(fd int, send, receive []byte, peek int) (err error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return fmt.Errorf("TCP_INFO: %w", err)
	}
	c.State, c.Options, c.Segment = info.State, info.Options, info.Snd_mss
	// Two bit fields of four bits behind tcpi_options.
	scales := *(*byte)(unsafe.Add(unsafe.Pointer(&info.Options), 1))
	c.SendScale, c.RecvScale = scales&0xf, scales>>4
	for _, q := range []struct {
		queue  int
		seq    *uint32
		buffer []byte
		data   *[]byte
	}{{sendQueue, &c.WriteSeq, send, &c.Send}, {receiveQueue, &c.ReceiveNext, receive, &c.Receive}} {
		if err := setTCP(fd, unix.TCP_REPAIR_QUEUE, q.queue); err != nil {
			return fmt.Errorf("TCP_REPAIR_QUEUE: %w", err)
		}
		seq, err := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
		if err != nil {
			return fmt.Errorf("TCP_QUEUE_SEQ: %w", err)
		}
		*q.seq = uint32(seq)
		if peek >= 0 && q.queue == receiveQueue {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0); err != nil {
				return fmt.Errorf("SO_PEEK_OFF: %w", err)
			}
		}
		n, _, err := unix.Recvfrom(fd, q.buffer, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("read queue %d: %w", q.queue, err)
		}
		*q.data = q.buffer[:max(n, 0)]
		if peek >= 0 && q.queue == receiveQueue {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, peek); err != nil {
				return fmt.Errorf("SO_PEEK_OFF: %w", err)
			}
		}
	}
	for _, v := range []struct {
		request uint
		value   *uint32
	}{{unix.SIOCOUTQ, &c.Unacked}, {unix.SIOCOUTQNSD, &c.Unsent}} {
		n, err := unix.IoctlGetInt(fd, v.request)
		if err != nil {
			return fmt.Errorf("length of the send queue: %w", err)
		}
		*v.value = uint32(n)
	}
	for name, value := range map[int]*uint32{unix.TCP_MAXSEG: &c.MSS, unix.TCP_TIMESTAMP: &c.Timestamp} {
		n, err := unix.GetsockoptInt(fd, unix.SOL_TCP, name)
		if err != nil {
			return fmt.Errorf("option %d: %w", name, err)
		}
		*value = uint32(n)
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&c.Window)), unsafe.Sizeof(c.Window))
	if n, err := kern.GetSockopt(fd, unix.SOL_TCP, unix.TCP_REPAIR_WINDOW, b); err != nil || n != len(b) {
		return fmt.Errorf("TCP_REPAIR_WINDOW: %d bytes: %w", n, errors.Join(err))
	}
	return nil
}

// check compares what was read with the numbers: a queue that is not whole is
// not carried.
func (c *rawConnection) check() error {
	if n := len(c.Send); uint32(n) != c.Unacked-c.ourFIN() {
		return fmt.Errorf("%d bytes of the send queue, want %d: %w", n, c.Unacked-c.ourFIN(), sdk.ErrCorrupt)
	}
	return nil
}

// ourFIN counts the FIN that was sent and not acknowledged.
func (c *rawConnection) ourFIN() uint32 {
	switch c.State {
	case stateFinWait1, stateClosing, stateLastAck:
		return 1
	}
	return 0
}

// peerFIN tells whether the peer has sent its FIN.
func peerFIN(state uint8) bool {
	return state == stateCloseWait || state == stateLastAck || state == stateClosing
}

func setTCP(fd, name, value int) error { return unix.SetsockoptInt(fd, unix.SOL_TCP, name, value) }

// setStruct sets an option that is a structure, or several.
func setStruct[T any](fd, name int, values ...T) error {
	if len(values) == 0 {
		return nil
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), uintptr(len(values))*unsafe.Sizeof(values[0]))
	return kern.SetSockopt(fd, unix.SOL_TCP, name, b)
}
