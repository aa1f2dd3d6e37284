// Package nft commits transactions of nftables, for the plugins that make rules.
package nft

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	batchBegin = 0x10 // NFNL_MSG_BATCH_BEGIN
	batchEnd   = 0x11 // NFNL_MSG_BATCH_END

	// answerSize is what an answer takes of a receive buffer, with all that the kernel
	// counts.
	answerSize = 2048
	minBuffer  = 64 << 10
)

// Type is the type of a message of nftables, by the number of what it does.
func Type(message int) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message)
}

// Commit sends messages as one transaction: all of it happens, or nothing. Each
// message must ask for an acknowledgement. The number is that of the first message
// that was refused.
func Commit(c *netlink.Conn, messages []netlink.Message) (refused int, err error) {
	edge := func(typ netlink.HeaderType) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: typ, Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	size := 0
	for _, m := range messages {
		size += len(m.Data) + unix.SizeofNlMsghdr
	}
	// A transaction is one datagram, and the kernel answers to all of it before
	// anybody reads an answer.
	err = errors.Join(c.SetWriteBuffer(2*size+minBuffer), c.SetReadBuffer(len(messages)*answerSize+minBuffer))
	if err != nil {
		return 0, fmt.Errorf("size of buffers: %w", err)
	}
	all := append([]netlink.Message{edge(batchBegin)}, messages...)
	if _, err := c.SendMessages(append(all, edge(batchEnd))); err != nil {
		return 0, err
	}
	for done := 0; done < len(messages); {
		acks, err := c.Receive()
		if err != nil {
			return done, err
		}
		done += len(acks)
	}
	return 0, nil
}
