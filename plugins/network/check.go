package network

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/procfs"
)

const (
	// subject is what findings are about.
	subject = "net namespace"
	rights  = "run firn with CAP_SYS_ADMIN and CAP_NET_ADMIN"
)

// Check implements [sdk.Checker].
func (p *plugin) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	p.mu.Lock()
	p.frozen = nil
	p.mu.Unlock()
	s, err := p.newSurvey(req.Session, !req.Preview)
	if err != nil {
		if !req.Frozen && (openfile.Gone(err) || errors.Is(err, os.ErrNotExist)) {
			return nil, nil // the last process has just ended
		}
		if errors.Is(err, unix.EPERM) {
			return []sdk.Finding{{Level: sdk.LevelBlock, Task: req.Tree.Root, Subject: subject, Text: err.Error(), Help: rights}}, nil
		}
		return nil, err
	}
	if req.Frozen {
		p.mu.Lock()
		p.frozen = s
		p.mu.Unlock()
	}
	for _, sp := range s.spaces {
		if sp.provided {
			s.add(sp, sdk.LevelNote, fmt.Sprintf("is not in the image; pass --%s net:PATH to the restore", namespace.JoinOption), "")
			continue
		}
		for _, text := range sp.refusals {
			s.add(sp, sdk.LevelBlock, text, fmt.Sprintf("remove it, or --%s 'net[%d]': leave the namespace to the restorer",
				externalOption, sp.res.Namespace.Ino))
		}
		s.add(sp, sdk.LevelOK, fmt.Sprintf("devices: %d, addresses: %d, routes: %d, settings: %d, tracked connections: %d",
			len(sp.links), len(sp.entries[networkpb.Table_TABLE_ADDRESS]), len(sp.entries[networkpb.Table_TABLE_ROUTE]),
			len(sp.sysctls), len(sp.entries[networkpb.Table_TABLE_CONNTRACK])), "")
	}
	return s.findings, nil
}

// Dump implements [sdk.Dumper].
func (p *plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	s, err := p.takeSurvey(req.Session)
	if err != nil {
		return err
	}
	for _, f := range s.findings {
		if f.Level >= sdk.LevelFlag {
			return fmt.Errorf("dump network namespace of task %d: %s: %w", f.Task, f.Text, sdk.ErrUnsupported)
		}
	}
	for _, sp := range s.spaces {
		if err := sp.emit(ctx, req.Records); err != nil {
			return err
		}
	}
	return nil
}

// takeSurvey returns what the check of the frozen tree found, or looks now.
func (p *plugin) takeSurvey(sess *sdk.Session) (*survey, error) {
	p.mu.Lock()
	s := p.frozen
	p.frozen = nil
	p.mu.Unlock()
	if s != nil && s.isOf(sess) {
		return s, nil
	}
	return p.newSurvey(sess, true)
}

// emit writes the records of a namespace.
func (sp *space) emit(ctx context.Context, records sdk.Emitter) error {
	object := sp.res.Object
	m := &networkpb.Namespace{Inode: sp.res.Namespace.Ino, Provided: sp.provided}
	if err := records.Emit(ctx, kindNamespace, object, m); err != nil || sp.provided {
		return err
	}
	if len(sp.refusals) > 0 {
		return fmt.Errorf("dump network namespace of task %d: %s: %w", sp.first.ID, sp.refusals[0], sdk.ErrUnsupported)
	}
	for _, l := range sp.links {
		if err := records.Emit(ctx, kindLink, object, l.Link); err != nil {
			return err
		}
	}
	for _, id := range append(entryTables(), networkpb.Table_TABLE_CONNTRACK) {
		for _, e := range sp.entries[id] {
			if err := records.Emit(ctx, kindEntry, object, e); err != nil {
				return err
			}
		}
	}
	for _, o := range sp.nft {
		if err := records.Emit(ctx, kindNftables, object, o); err != nil {
			return err
		}
	}
	return records.Emit(ctx, kindSysctls, object, &networkpb.Sysctls{Sysctls: sp.sysctls})
}

func entryTables() []networkpb.Table {
	var out []networkpb.Table
	for _, t := range tables {
		out = append(out, t.id)
	}
	return out
}

// CheckImage implements [sdk.ImageChecker].
func (*plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	all, err := load(req)
	if err != nil {
		return nil, err
	}
	c := &imageCheck{}
	status, err := procfs.Status(os.Getpid())
	if err != nil {
		return nil, err
	}
	const needed = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	if status.CapEff&needed != needed {
		for _, s := range all {
			c.block(s, "needs capabilities", rights)
		}
		return c.findings, nil
	}
	if err := c.readOwn(); err != nil {
		return nil, err
	}
	for _, s := range all {
		path, joined := namespace.Joined(req.Session, s.res)
		switch {
		case joined:
			f, err := namespace.OpenPath(path, "net", unix.CLONE_NEWNET)
			if err != nil {
				c.block(s, err.Error(), "")
				continue
			}
			f.Close()
		case s.record.GetProvided():
			c.block(s, "is not in the image", fmt.Sprintf("pass --%s net:PATH", namespace.JoinOption))
		default:
			if err := c.check(req.Session, s); err != nil {
				return nil, err
			}
		}
	}
	return c.findings, nil
}
