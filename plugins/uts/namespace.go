package uts

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uts/utspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/tape"
)

// maxName is __NEW_UTS_LEN, the longest name in bytes.
const maxName = 64

// read reads the names of the namespace that a process lives in.
func read(pid int) (*utspb.Namespace, error) {
	ns, err := namespace.Open(pid, "uts")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var name unix.Utsname
	if err := namespace.Within(ns, func() error { return unix.Uname(&name) }); err != nil {
		return nil, err
	}
	return &utspb.Namespace{Hostname: cString(name.Nodename[:]), Domainname: cString(name.Domainname[:])}, nil
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
