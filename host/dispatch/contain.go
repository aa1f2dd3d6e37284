package dispatch

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk/kern"
)

// A plugin of a third party gets the capabilities that it declares, of those that
// the host has, and can never get others: not by executing something either. What it
// declares it can say without any, so that is how one is started of which nothing is
// known yet.

// rights are the capabilities that a plugin may have.
type rights struct {
	all  bool   // those of the host
	mask uint64 // or these: bit N for number N
}

// capabilities are the names by their numbers (capabilities(7),
// linux/capability.h).
var capabilities = strings.Fields(`
CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW
CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT
CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD
CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG
CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE`)

// declared are the rights that a plugin says it needs.
func declared(names []string) (rights, error) {
	var r rights
	for _, name := range names {
		n := slices.Index(capabilities, name)
		if n < 0 {
			return r, fmt.Errorf("declares the capability %q, which is none: %w", name, failure.ErrPlugin)
		}
		r.mask |= 1 << n
	}
	return r, nil
}

// contained calls start on a thread that has only these rights, and keeps the thread
// until ended is closed: the parent death signal of a child is sent when the thread
// that started it ends.
func (r rights) contained(start func() error, ended <-chan struct{}) error {
	started := make(chan error, 1)
	go func() {
		err := kern.OnThread(func() error {
			if err := r.drop(); err != nil {
				return err
			}
			err := start()
			started <- err
			if err == nil {
				<-ended
			}
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	return <-started
}

// drop leaves the calling thread no other rights. Whatever is executed gets no
// others: not by being root, which is bounded, nor by its file.
func (r rights) drop() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("contain: no_new_privs: %w", err)
	}
	for n := range 64 {
		if r.mask&(1<<n) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel has no more
		}
		// Without CAP_SETPCAP the bounds stay; then no_new_privs keeps a process from
		// getting what it does not have.
		if err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("contain: bound capability %d: %w", n, err)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("contain: capget: %w", err)
	}
	for i := range data {
		word := uint32(r.mask >> (32 * i))
		data[i].Permitted &= word
		data[i].Effective &= word
		data[i].Inheritable &= word
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("contain: capset: %w", err)
	}
	return nil
}

// Trust takes the containment from plugins. Names that nobody has are an error.
func Trust(bins []Binary, names []string) error {
	return mark(bins, names, "trust", func(b *Binary) { b.ThirdParty = false })
}

// mark changes the plugins of some names. to says for what, should there be none.
func mark(bins []Binary, names []string, to string, change func(*Binary)) error {
	for _, name := range names {
		i := slices.IndexFunc(bins, func(b Binary) bool { return b.Name == name })
		if i < 0 {
			return fmt.Errorf("there is no plugin %q to %s: %w", name, to, failure.ErrUsage)
		}
		change(&bins[i])
	}
	return nil
}
