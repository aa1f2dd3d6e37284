package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
)

// order is that of numbers inside netlink messages.
var order = binary.NativeEndian

// typeMask is what of an attribute's type is not a flag (NLA_TYPE_MASK).
const typeMask = 0x3fff

// dial opens netlink in a namespace; nil is this process's own.
func dial(family int, ns *os.File) (*netlink.Conn, error) {
	cfg := &netlink.Config{}
	if ns != nil {
		cfg.NetNS = int(ns.Fd())
	}
	c, err := netlink.Dial(family, cfg)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	// The kernel says what it does not like, if it knows how (since Linux 4.12).
	_ = c.SetOption(netlink.ExtendedAcknowledge, true)
	return c, nil
}

// attributes reads the attributes of a message.
func attributes(b []byte) ([]*networkpb.Attribute, error) {
	list, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return nil, fmt.Errorf("netlink attributes: %w", errors.Join(err, sdk.ErrCorrupt))
	}
	out := make([]*networkpb.Attribute, len(list))
	for i, a := range list {
		out[i] = &networkpb.Attribute{Type: uint32(a.Type), Value: a.Data}
	}
	return out, nil
}

// encode is the opposite of attributes.
func encode(list []*networkpb.Attribute) ([]byte, error) {
	out := make([]netlink.Attribute, len(list))
	for i, a := range list {
		out[i] = netlink.Attribute{Type: uint16(a.GetType()), Data: a.GetValue()}
	}
	return netlink.MarshalAttributes(out)
}

// find returns the value of an attribute, nil if there is none.
func find(list []*networkpb.Attribute, typ uint32) []byte {
	for _, a := range list {
		if a.GetType()&typeMask == typ {
			return a.GetValue()
		}
	}
	return nil
}

// findNested returns the attributes inside of one.
func findNested(list []*networkpb.Attribute, typ uint32) ([]*networkpb.Attribute, error) {
	v := find(list, typ)
	if len(v) == 0 {
		return nil, nil
	}
	return attributes(v)
}

// findNumber returns a number of four bytes, 0 if there is none.
func findNumber(list []*networkpb.Attribute, typ uint32) uint32 {
	if v := find(list, typ); len(v) >= 4 {
		return order.Uint32(v)
	}
	return 0
}

// findString returns text that may end with a zero byte.
func findString(list []*networkpb.Attribute, typ uint32) string {
	return unix.ByteSliceToString(find(list, typ))
}

// only returns the attributes of some types.
func only(list []*networkpb.Attribute, types ...uint32) []*networkpb.Attribute {
	var out []*networkpb.Attribute
	for _, a := range list {
		for _, t := range types {
			if a.GetType()&typeMask == t {
				out = append(out, a)
			}
		}
	}
	return out
}

// without returns the attributes that are of none of some types.
func without(list []*networkpb.Attribute, types ...uint32) []*networkpb.Attribute {
	var out []*networkpb.Attribute
	for _, a := range list {
		drop := false
		for _, t := range types {
			drop = drop || a.GetType()&typeMask == t
		}
		if !drop {
			out = append(out, a)
		}
	}
	return out
}

func number(typ, v uint32) *networkpb.Attribute {
	return &networkpb.Attribute{Type: typ, Value: order.AppendUint32(nil, v)}
}

func text(typ uint32, s string) *networkpb.Attribute {
	return &networkpb.Attribute{Type: typ, Value: append([]byte(s), 0)}
}

// nested puts attributes into one.
func nested(typ uint32, list ...*networkpb.Attribute) (*networkpb.Attribute, error) {
	v, err := encode(list)
	return &networkpb.Attribute{Type: typ | unix.NLA_F_NESTED, Value: v}, err
}

// message makes a netlink message of a header and attributes.
func message(typ uint16, flags netlink.HeaderFlags, header []byte, list []*networkpb.Attribute) (netlink.Message, error) {
	data, err := encode(list)
	if err != nil {
		return netlink.Message{}, fmt.Errorf("netlink message: %w", err)
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | flags},
		Data:   append(append([]byte(nil), header...), data...),
	}, nil
}

// change sends a message that changes something and waits for the answer.
func change(c *netlink.Conn, typ uint16, flags netlink.HeaderFlags, header []byte, list []*networkpb.Attribute) error {
	m, err := message(typ, flags|netlink.Acknowledge, header, list)
	if err != nil {
		return err
	}
	_, err = c.Execute(m)
	return err
}

// ask sends a question that has one answer, with a header of the same size, and
// returns its attributes.
func ask(c *netlink.Conn, typ uint16, header []byte, what ...*networkpb.Attribute) ([]*networkpb.Attribute, error) {
	m, err := message(typ, 0, header, what)
	if err != nil {
		return nil, err
	}
	answer, err := c.Execute(m)
	if err != nil {
		return nil, err
	}
	if len(answer) != 1 || len(answer[0].Data) < len(header) {
		return nil, fmt.Errorf("%d answers: %w", len(answer), sdk.ErrCorrupt)
	}
	return attributes(answer[0].Data[len(header):])
}

// maxDumps is how often a list is read that changes while it is read.
const maxDumps = 20

// list reads all of a kind, as it is at one moment.
func list(c *netlink.Conn, typ uint16, header []byte) ([]netlink.Message, error) {
	for range maxDumps {
		messages, err := c.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Dump},
			Data:   header,
		})
		if err != nil {
			return nil, err
		}
		interrupted := slices.ContainsFunc(messages, func(m netlink.Message) bool {
			return m.Header.Flags&netlink.DumpInterrupted != 0
		})
		if !interrupted {
			return messages, nil
		}
	}
	return nil, fmt.Errorf("changes while it is read: %w", sdk.ErrChanged)
}

// absent tells that this kernel does not have what was asked for.
func absent(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOENT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
