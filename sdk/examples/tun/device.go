package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/firn-plugin-tun/tunpb"
	"github.com/firn-cr/firn/sdk"
)

// settable are the flags that TUNSETIFF takes and that stay (linux/if_tun.h).
const settable = unix.IFF_TUN | unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE | unix.IFF_NAPI | unix.IFF_NAPI_FRAGS

// readHandle reads what the kernel tells of a descriptor.
func readHandle(fd int) (*tunpb.Handle, error) {
	req, err := unix.NewIfreq("x")
	if err != nil {
		return nil, err
	}
	err = unix.IoctlIfreq(fd, unix.TUNGETIFF, req)
	if errors.Is(err, unix.EBADFD) {
		return &tunpb.Handle{}, nil // not attached
	}
	if err != nil {
		return nil, fmt.Errorf("TUNGETIFF: %w", err)
	}
	h := &tunpb.Handle{Device: req.Name(), Flags: uint32(req.Uint16())}
	if err := sameNamespace(fd, h.GetDevice()); err != nil {
		return nil, err
	}
	for _, v := range []struct {
		get uint
		to  *int32
	}{{unix.TUNGETSNDBUF, &h.SendBuffer}, {unix.TUNGETVNETHDRSZ, &h.HeaderSize}, {unix.TUNGETVNETLE, &h.LittleEndian}} {
		n, err := unix.IoctlGetInt(fd, v.get)
		if err != nil {
			return nil, fmt.Errorf("read setting %#x: %w", v.get, err)
		}
		*v.to = int32(n)
	}
	for name, to := range map[string]*int32{"owner": &h.Owner, "group": &h.Group} {
		b, err := os.ReadFile("/sys/class/net/" + h.GetDevice() + "/" + name)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 32)
		if err != nil {
			return nil, err
		}
		*to = int32(n)
	}
	h.Link, err = readLink(h)
	return h, err
}

// sameNamespace refuses devices of other network namespaces than this process's.
func sameNamespace(fd int, device string) error {
	ns, err := unix.IoctlRetInt(fd, unix.TUNGETDEVNETNS)
	if err != nil {
		return fmt.Errorf("TUNGETDEVNETNS: %w", err)
	}
	defer unix.Close(ns)
	var theirs, ours unix.Stat_t
	if err := errors.Join(unix.Fstat(ns, &theirs), unix.Stat("/proc/self/ns/net", &ours)); err != nil {
		return err
	}
	if theirs.Ino != ours.Ino {
		return fmt.Errorf("%s is in another network namespace: %w", device, sdk.ErrUnsupported)
	}
	return nil
}

// taken tells why a device cannot have its name; empty if it can. One that was
// persistent may be there still, and is attached to.
func taken(h *tunpb.Handle) string {
	if h.GetDevice() == "" || h.GetFlags()&(unix.IFF_PERSIST|unix.IFF_MULTI_QUEUE) != 0 {
		return ""
	}
	if _, err := net.InterfaceByName(h.GetDevice()); err == nil {
		return "tun device " + h.GetDevice() + ": there is a device of that name"
	}
	return ""
}

// attach makes the device, or takes a queue of it, and gives it its settings.
func attach(fd int, h *tunpb.Handle) error {
	req, err := unix.NewIfreq(h.GetDevice())
	if err != nil {
		return fmt.Errorf("%w: %w", err, sdk.ErrCorrupt)
	}
	req.SetUint16(uint16(h.GetFlags() & settable))
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	for _, v := range []struct {
		set   uint
		value int32
	}{{unix.TUNSETSNDBUF, h.GetSendBuffer()}, {unix.TUNSETVNETHDRSZ, h.GetHeaderSize()}, {unix.TUNSETVNETLE, h.GetLittleEndian()}} {
		if err := unix.IoctlSetPointerInt(fd, v.set, int(v.value)); err != nil {
			return fmt.Errorf("setting %#x: %w", v.set, err)
		}
	}
	persist := 0
	if h.GetFlags()&unix.IFF_PERSIST != 0 {
		persist = 1
	}
	for _, v := range []struct {
		set   uint
		value int
	}{{unix.TUNSETOWNER, int(h.GetOwner())}, {unix.TUNSETGROUP, int(h.GetGroup())}, {unix.TUNSETPERSIST, persist}} {
		if v.value < 0 {
			continue // nobody, as in a new device
		}
		if err := unix.IoctlSetInt(fd, v.set, v.value); err != nil {
			return fmt.Errorf("setting %#x: %w", v.set, err)
		}
	}
	return writeLink(h)
}

// hardware is struct ifreq with a struct sockaddr, for SIOCSIFHWADDR.
type hardware struct {
	name    [unix.IFNAMSIZ]byte
	family  uint16
	address [22]byte
}

func setHardwareAddress(control int, device string, address []byte) error {
	req := hardware{family: unix.ARPHRD_ETHER}
	copy(req.name[:], device)
	copy(req.address[:], address)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(control), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return fmt.Errorf("set hardware address: %w", errno)
	}
	return nil
}
