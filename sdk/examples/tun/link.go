package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"example.com/firn-plugin-tun/tunpb"
	"github.com/firn-cr/firn/sdk"
)

// addressHeader is the length of struct ifaddrmsg, in which the index of the device
// is at offset 4.
const addressHeader = 8

// readLink reads the state of a device.
func readLink(h *tunpb.Handle) (*tunpb.Link, error) {
	ifi, err := net.InterfaceByName(h.GetDevice())
	if err != nil {
		return nil, err
	}
	l := &tunpb.Link{Up: ifi.Flags&net.FlagUp != 0, Mtu: int32(ifi.MTU)}
	if h.GetFlags()&unix.IFF_TAP != 0 {
		l.HardwareAddress = ifi.HardwareAddr
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	list, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETADDR, Flags: netlink.Request | netlink.Dump}, Data: make([]byte, addressHeader),
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, m := range list {
		if len(m.Data) >= addressHeader && binary.NativeEndian.Uint32(m.Data[4:]) == uint32(ifi.Index) {
			l.Addresses = append(l.Addresses, m.Data)
		}
	}
	return l, nil
}

// writeLink gives a device the state that it had.
func writeLink(h *tunpb.Handle) error {
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(control)
	l := h.GetLink()
	if a := l.GetHardwareAddress(); len(a) == 6 {
		if err := setHardwareAddress(control, h.GetDevice(), a); err != nil {
			return err
		}
	}
	req, err := unix.NewIfreq(h.GetDevice())
	if err != nil {
		return err
	}
	req.SetUint32(uint32(l.GetMtu()))
	if err := unix.IoctlIfreq(control, unix.SIOCSIFMTU, req); err != nil {
		return fmt.Errorf("set MTU %d: %w", l.GetMtu(), err)
	}
	if err := unix.IoctlIfreq(control, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("read flags: %w", err)
	}
	flags := req.Uint16() &^ unix.IFF_UP
	if l.GetUp() {
		flags |= unix.IFF_UP
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(control, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set flags: %w", err)
	}
	return addAddresses(h)
}

func addAddresses(h *tunpb.Handle) error {
	ifi, err := net.InterfaceByName(h.GetDevice())
	if err != nil {
		return err
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, a := range h.GetLink().GetAddresses() {
		if len(a) < addressHeader {
			return fmt.Errorf("address of %d bytes: %w", len(a), sdk.ErrCorrupt)
		}
		data := append([]byte(nil), a...)
		binary.NativeEndian.PutUint32(data[4:], uint32(ifi.Index))
		_, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.RTM_NEWADDR, Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Replace}, Data: data,
		})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add an address: %w", err)
		}
	}
	return nil
}
