package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// subject is a program with a tun device: it sends packets to an address behind the
// device and reads them from there, whole, all the time.
const subject = `
import fcntl, os, socket, struct, subprocess, sys, time
name = b"firn%d" % (os.getpid() % 100000)
net = "10.%d.%d." % (os.getpid() // 250 % 250, os.getpid() % 250)
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name, 0x1001))
subprocess.check_call(["ip", "addr", "add", net + "1/24", "dev", name])
subprocess.check_call(["ip", "link", "set", name, "mtu", "1300", "up"])
log = open("log", "a", buffering=1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
n = 0
while True:
    n += 1
    s.sendto(b"packet %d" % n, (net + "2", 9))
    deadline = time.monotonic() + 10
    while True:
        p = os.read(fd, 2000)
        if p[0] >> 4 == 4 and p[28:] == b"packet %d" % n:
            break
        if time.monotonic() > deadline or p[0] >> 4 == 4 and p[28:35] == b"packet ":
            print("bad: read", p[28:], file=log)
            break
    mtu = open("/sys/class/net/%s/mtu" % name.decode()).read().strip()
    print("right" if mtu == "1300" else "bad: mtu " + mtu, file=log)
    time.sleep(0.02)
`

func TestTun(t *testing.T) {
	gate.Cap(t, unix.CAP_NET_ADMIN)
	f, err := os.OpenFile(devicePath, os.O_RDWR, 0)
	gate.Feature(t, devicePath, err == nil)
	f.Close()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	const object = 7
	name := fmt.Sprintf("firnt%d", os.Getpid()%100000)
	sdktest.Conform(t, sdktest.Conformance{
		Plugin: func() sdk.Plugin { return plugin{} },
		Setup: func(t testing.TB) sdktest.Config {
			// With queues, so that the restored one can be beside it.
			fd, err := unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
			req, err := unix.NewIfreq(name)
			if err != nil {
				t.Fatal(err)
			}
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
			if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
				t.Fatal(err)
			}
			task := sdk.TaskID(os.Getpid())
			return sdktest.Config{Tree: sdktest.Tree(os.Getpid()), Resources: []sdk.Resource{{
				Kind: sdk.KindFile, Object: object, Task: task,
				File: &sdk.File{
					Link: devicePath, Type: sdk.TypeChar, Rdev: unix.Mkdev(10, 200), Flags: unix.O_RDWR,
					Refs: []sdk.FDRef{{Task: task, FD: fd}},
				},
			}}}
		},
		Verify: func(t testing.TB, s *sdktest.Session) {
			h, err := readHandle(s.FD(object))
			if err != nil || h.GetDevice() != name || h.GetFlags()&unix.IFF_TAP == 0 {
				t.Errorf("device %v, %v", h, err)
			}
		},
		Program: ".",
		Subject: []string{python, "-c", subject},
	})
}
