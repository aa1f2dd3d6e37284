package uts

import (
	"bytes"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uts/utspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// maxName is __NEW_UTS_LEN, the longest name in bytes.
const maxName = 64

// read reads the names of the namespace that a process lives in.
func read(pid int) (*utspb.Namespace, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	defer ns.Close()
	var name unix.Utsname
	if err := within(ns, func() error { return unix.Uname(&name) }); err != nil {
		return nil, err
	}
	return &utspb.Namespace{Hostname: cString(name.Nodename[:]), Domainname: cString(name.Domainname[:])}, nil
}

// within runs f on a thread in the namespace. The thread is not used for
// anything else and ends, because its goroutine does not unlock it.
func within(ns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWUTS); err != nil {
			done <- fmt.Errorf("enter namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func cString(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return bytes.Clone(b)
}

// valid checks what create will hand to the kernel.
func valid(ns *utspb.Namespace) error {
	if len(ns.GetHostname()) > maxName || len(ns.GetDomainname()) > maxName {
		return fmt.Errorf("names of %d and %d bytes: %w", len(ns.GetHostname()), len(ns.GetDomainname()), sdk.ErrCorrupt)
	}
	return nil
}

// create is the tape that makes a namespace in its first process.
func create(ns *utspb.Namespace) *tape.Tape {
	t := &tape.Tape{}
	t.Call(unix.SYS_UNSHARE, tape.Imm(unix.CLONE_NEWUTS))
	for _, name := range []struct {
		nr  int
		val []byte
	}{{unix.SYS_SETHOSTNAME, ns.GetHostname()}, {unix.SYS_SETDOMAINNAME, ns.GetDomainname()}} {
		t.Call(name.nr, t.Bytes(name.val).Arg(), tape.Imm(len(name.val)))
	}
	return t
}

// join is the tape that enters a namespace, which is open in this process. The
// processes of a tree cannot always name each other: it may have several PID
// namespaces.
func join(pluginFD int, ns *os.File) *tape.Tape {
	t := &tape.Tape{}
	fd := t.Call(unix.SYS_PIDFD_GETFD, tape.Imm(pluginFD), tape.Imm(int(ns.Fd())), tape.Imm(0))
	t.Call(unix.SYS_SETNS, fd.Arg(), tape.Imm(unix.CLONE_NEWUTS))
	t.Call(unix.SYS_CLOSE, fd.Arg())
	return t
}
