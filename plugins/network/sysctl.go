package network

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/namespace"
)

// sysctlRoot shows each thread the settings of the namespace that it is in.
const sysctlRoot = "/proc/sys/net"

// settings are the values of sysctls, by the path below sysctlRoot.
type settings map[string]string

// readSettings reads all settings that can be changed, in a thread that is in the
// namespace.
func readSettings() (settings, error) {
	out := settings{}
	buf := make([]byte, 64<<10)
	return out, walk("", func(path string) error {
		// Here root, too, may do what the mode says only (test_perm in
		// fs/proc/proc_sysctl.c).
		fd, err := unix.Open(filepath.Join(sysctlRoot, path), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return ignore(err, unix.EACCES, unix.EPERM, unix.ENOENT)
		}
		defer unix.Close(fd)
		n, err := unix.Read(fd, buf)
		if err != nil {
			return ignore(err, unix.EIO, unix.EINVAL, unix.ENOENT) // has no value, or its device is gone
		}
		out[path] = string(bytes.TrimRight(buf[:n], "\n"))
		return nil
	})
}

func ignore(err error, these ...error) error {
	for _, e := range these {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// walk calls f with each file below a directory.
func walk(dir string, f func(path string) error) error {
	entries, err := os.ReadDir(filepath.Join(sysctlRoot, dir))
	if err != nil {
		return ignore(err, os.ErrNotExist)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() {
			err = walk(path, f)
		} else if err = f(path); err != nil {
			err = fmt.Errorf("setting %s: %w", path, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeSetting(path, value string) error {
	fd, err := unix.Open(filepath.Join(sysctlRoot, path), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", path, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value+"\n")); err != nil {
		return fmt.Errorf("set %s to %q: %w", path, value, err)
	}
	return nil
}

// freshSettings are those of a new namespace.
func (p *plugin) freshSettings() (settings, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fresh != nil {
		return p.fresh, nil
	}
	err := kern.OnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		p.fresh, err = readSettings()
		return err
	})
	return p.fresh, err
}

// learnFresh takes the settings of a namespace that was just made for those of any
// new one. Those of a user namespace lack some.
func (p *plugin) learnFresh(s *saved) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fresh != nil || s.res.Namespace.Owner != 0 {
		return nil
	}
	return namespace.Within(s.conns.ns, func() (err error) {
		p.fresh, err = readSettings()
		return err
	})
}

// changed are those that are not what they are in a new namespace. A device has
// there what is the default for all.
func (s settings) changed(fresh settings, devices []string) []*networkpb.Sysctl {
	var out []*networkpb.Sysctl
	for _, path := range slices.SortedFunc(maps.Keys(s), compareSettings) {
		usual, ok := fresh[path]
		if !ok {
			usual, ok = fresh[ofDefault(path, devices)]
		}
		if !ok || usual != s[path] {
			out = append(out, &networkpb.Sysctl{Path: path, Value: s[path]})
		}
	}
	return out
}

// ofDefault is the path of what a device gets when it is made: ipv4/conf/eth0/x
// is a copy of ipv4/conf/default/x. The defaults of neigh are those of the machine,
// which shows them to its first namespace only.
func ofDefault(path string, devices []string) string {
	parts := strings.Split(path, "/")
	if len(parts) > 3 && slices.Contains(devices, parts[2]) {
		switch parts[1] {
		case "conf":
			parts[2] = "default"
		case "neigh":
			parts[2] = "lo"
		}
	}
	return strings.Join(parts, "/")
}

// compareSettings puts what changes others first: those for all devices, then the
// defaults, then the devices.
func compareSettings(a, b string) int {
	rank := func(path string) int {
		switch {
		case strings.Contains(path, "/all/"):
			return 0
		case strings.Contains(path, "/default/"):
			return 1
		}
		return 2
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	return strings.Compare(a, b)
}

// set gives a namespace settings. What is refused now may be accepted when more is
// there, so only the last call is strict.
func (c *conns) set(want []*networkpb.Sysctl, strict bool) error {
	want = slices.Clone(want)
	slices.SortStableFunc(want, func(a, b *networkpb.Sysctl) int { return compareSettings(a.GetPath(), b.GetPath()) })
	return namespace.Within(c.ns, func() error {
		for _, s := range want {
			if err := writeSetting(s.GetPath(), s.GetValue()); err != nil && strict {
				return err
			}
		}
		return nil
	})
}

// usual are those settings of have that are not in want, with the values that they
// have in a new namespace.
func (s settings) usual(have, want []*networkpb.Sysctl, devices []string) []*networkpb.Sysctl {
	wanted := settings{}
	for _, w := range want {
		wanted[w.GetPath()] = w.GetValue()
	}
	var out []*networkpb.Sysctl
	for _, h := range have {
		value, ok := s[h.GetPath()]
		if !ok {
			value, ok = s[ofDefault(h.GetPath(), devices)]
		}
		if _, listed := wanted[h.GetPath()]; ok && !listed {
			out = append(out, &networkpb.Sysctl{Path: h.GetPath(), Value: value})
		}
	}
	return out
}
