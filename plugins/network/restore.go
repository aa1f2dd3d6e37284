package network

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/tape"
)

// RestoreNamespaces implements [sdk.NamespaceRestorer].
func (p *plugin) RestoreNamespaces(ctx context.Context, req *sdk.RestoreRequest) (err error) {
	p.mu.Lock()
	p.outside = nil
	p.mu.Unlock()
	all, err := load(req)
	if err != nil {
		return err
	}
	err = namespace.Restore(ctx, req, unix.CLONE_NEWNET, func(*sdk.Resource) (*tape.Tape, error) {
		t := &tape.Tape{}
		t.Call(unix.SYS_UNSHARE, tape.Imm(unix.CLONE_NEWNET))
		return t, nil
	})
	if err != nil {
		return err
	}
	var todo []*saved
	defer func() {
		for _, s := range todo {
			err = errors.Join(err, s.conns.close())
		}
	}()
	for _, s := range all {
		if _, joined := namespace.Joined(req.Session, s.res); joined {
			continue
		}
		ns, err := namespace.Open(s.first.PID, "net")
		if err != nil {
			return err
		}
		if s.conns, err = connect(ns); err != nil {
			return err
		}
		todo = append(todo, s)
		if err := p.learnFresh(s); err != nil {
			return err
		}
	}
	if err := p.makeLinks(req.Session, todo); err != nil {
		return err
	}
	// A pair has a carrier when both of its ends are up.
	for _, step := range []func(*saved) error{p.raiseAll, p.fill, p.verify} {
		for _, s := range todo {
			if err := step(s); err != nil {
				return fmt.Errorf("network namespace of task %d: %w", s.first.ID, err)
			}
		}
	}
	return nil
}

// generateNone is the value of addr_gen_mode that has the kernel make no
// link-local address (IN6_ADDR_GEN_MODE_NONE).
const generateNone = "1"

// raiseAll gives devices their settings and lets them go up.
func (p *plugin) raiseAll(s *saved) error {
	if err := s.configure(); err != nil {
		return err
	}
	first := s.sysctls
	for _, l := range s.links {
		first = append(first[:len(first):len(first)],
			&networkpb.Sysctl{Path: "ipv6/conf/" + l.GetName() + "/addr_gen_mode", Value: generateNone})
	}
	if err := s.conns.set(first, false); err != nil {
		return err
	}
	return s.raise()
}

// fill makes everything of a namespace but the devices.
func (p *plugin) fill(s *saved) error {
	if err := s.reconcile(); err != nil {
		return err
	}
	if s.conns.filter != nil {
		if err := restoreRuleset(s.conns.filter, s.nft); err != nil {
			return err
		}
		if err := restoreTracking(s.conns.filter, s.entries[networkpb.Table_TABLE_CONNTRACK]); err != nil {
			return err
		}
	}
	return p.settle(s)
}

// settle gives a namespace its settings. Some of them make the kernel add addresses
// and routes.
func (p *plugin) settle(s *saved) error {
	fresh, err := p.freshSettings()
	if err != nil {
		return err
	}
	var devices []string
	var generate []*networkpb.Sysctl // what raiseAll has changed
	for _, l := range s.links {
		devices = append(devices, l.GetName())
		generate = append(generate, &networkpb.Sysctl{Path: "ipv6/conf/" + l.GetName() + "/addr_gen_mode"})
	}
	if err := s.conns.set(append(fresh.usual(generate, s.sysctls, devices), s.sysctls...), true); err != nil {
		return err
	}
	return s.reconcile()
}

// correct sets once more what others have changed: have is how it is.
func (s *saved) correct(fresh settings, have *contents) error {
	devices := names(have.links)
	if err := s.conns.set(append(fresh.usual(have.sysctls, s.sysctls, devices), s.sysctls...), true); err != nil {
		return err
	}
	return s.reconcile()
}

func (s *saved) reconcile() error {
	for _, t := range tables {
		if err := t.reconcile(s.conns.route, s.entries[t.id]); err != nil {
			return err
		}
	}
	return nil
}

// verify reads a namespace once more. Settings that others have changed get a second
// chance; everything must be what it was.
func (p *plugin) verify(s *saved) error {
	fresh, err := p.freshSettings()
	if err != nil {
		return err
	}
	now, err := s.conns.read(fresh)
	if err == nil && compareSysctls(s.sysctls, now.sysctls) != nil {
		if err = s.correct(fresh, now); err == nil {
			now, err = s.conns.read(fresh)
		}
	}
	if err != nil {
		return err
	}
	return s.compare(now)
}

// compare tells how a namespace differs from what it was.
func (s *saved) compare(now *contents) error {
	for _, l := range s.links {
		o := byIndex(now.links, l.GetIndex())
		if o == nil {
			return fmt.Errorf("device %s is not there: %w", l.GetName(), sdk.ErrUnsupported)
		}
		if o.GetKind() == kindVeth {
			o.Lower = 0
		}
		if what := sameLink(l, o.Link); what != "" {
			return fmt.Errorf("device %s is not what it was: %s: %w", l.GetName(), what, sdk.ErrUnsupported)
		}
	}
	for _, t := range tables {
		if err := t.compare(s.entries[t.id], now.entries[t.id]); err != nil {
			return err
		}
	}
	return compareSysctls(s.sysctls, now.sysctls)
}

func compareSysctls(want, have []*networkpb.Sysctl) error {
	values := settings{}
	for _, s := range have {
		values[s.GetPath()] = s.GetValue()
	}
	for _, s := range want {
		if v, ok := values[s.GetPath()]; !ok || v != s.GetValue() {
			return fmt.Errorf("setting %s is %q, want %q: %w", s.GetPath(), v, s.GetValue(), sdk.ErrUnsupported)
		}
		delete(values, s.GetPath())
	}
	for path, v := range values {
		return fmt.Errorf("setting %s is %q, which it was not: %w", path, v, sdk.ErrUnsupported)
	}
	return nil
}

// Seal implements [sdk.Sealer]: the sockets are there, packets may come.
func (p *plugin) Seal(context.Context, *sdk.RestoreRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.outside {
		if err := o.goLive(); err != nil {
			return fmt.Errorf("the other end of device %s: %w", o.inner.GetName(), err)
		}
	}
	return nil
}
