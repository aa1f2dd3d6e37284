// Command firn-plugin-redis brings redis-server to rest before a checkpoint: no
// write is in the middle, no child writes a dump. It carries nothing itself, which
// is the business of the shipped plugins: an example of a plugin that asks a
// program for what only that can do. docs/writing-a-plugin.md explains it.
package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// kindServer is a record with the address of a server that was paused. A restore
// can do without it: the pause ends by itself.
const kindServer = 1

// pause is how long a server waits for somebody to continue it.
const pause = time.Minute

type plugin struct {
	mu     sync.Mutex
	paused map[sdk.TaskID]string // addresses
}

// Describe has no side effects and always returns the same.
func (*plugin) Describe() sdk.Description {
	sockets := func(family int) sdk.Claim {
		return sdk.Claim{Kind: sdk.KindFile, Socket: &sdk.Socket{Family: family, Type: unix.SOCK_STREAM, Protocol: sdk.Any}}
	}
	return sdk.Description{
		Name:    "redis",
		Version: "1.0.0",
		Summary: "brings redis-server to rest before a checkpoint",
		Attends: []sdk.Claim{sockets(unix.AF_INET), sockets(unix.AF_UNIX)},
		Records: []sdk.RecordType{{Kind: kindServer, Version: 1, Message: &wrapperspb.StringValue{}, Optional: true}},
		// For duplicates of root's sockets.
		Capabilities: []string{"CAP_SYS_PTRACE"},
	}
}

// Quiesce pauses writes and waits until no child is saving.
func (p *plugin) Quiesce(ctx context.Context, req *sdk.QuiesceRequest) error {
	servers, err := find(req.Session)
	if err != nil {
		return err
	}
	password, _ := req.Option("redis-password")
	for id, address := range servers {
		p.mu.Lock()
		p.paused[id] = address // from now on it may be
		p.mu.Unlock()
		err := with(ctx, address, password, func(c *client) error {
			if err := c.do(fmt.Sprintf("CLIENT PAUSE %d WRITE", pause.Milliseconds())); err != nil {
				return err
			}
			return c.awaitSaved(ctx)
		})
		if err != nil {
			return fmt.Errorf("redis-server %d at %s: %w", id, address, err)
		}
		req.Log.Info("paused", "task", id, "address", address)
	}
	return nil
}

// find finds the addresses at which servers of the tree listen, one for each.
func find(s *sdk.Session) (map[sdk.TaskID]string, error) {
	access := openfile.NewAccess(s.Tree)
	defer access.Close()
	servers := map[sdk.TaskID]string{}
	for i := range s.Attended {
		r := &s.Attended[i]
		if proc := s.Tree.Process(r.Task); proc == nil || proc.Comm != "redis-server" || servers[r.Task] != "" {
			continue
		}
		fd, err := access.Dup(r)
		if openfile.Gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if address, ok := listens(fd); ok {
			servers[r.Task] = address
		}
		unix.Close(fd)
	}
	return servers, nil
}

// Dump notes whom to continue after a restore.
func (p *plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, address := range p.paused {
		if err := req.Records.Emit(ctx, kindServer, uint64(id), wrapperspb.String(address)); err != nil {
			return err
		}
	}
	return nil
}

// Thawed continues servers that run on.
func (p *plugin) Thawed(ctx context.Context, req *sdk.DumpRequest) error {
	if req.Frozen {
		return nil
	}
	password, _ := req.Option("redis-password")
	return p.resume(ctx, password)
}

// Abort continues servers after a failure. A password is not known any more: the
// pause of a server that wants one ends by itself.
func (p *plugin) Abort(ctx context.Context) error { return p.resume(ctx, "") }

func (p *plugin) resume(ctx context.Context, password string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for id, address := range p.paused {
		errs = append(errs, unpause(ctx, address, password))
		delete(p.paused, id)
	}
	return errors.Join(errs...)
}

// Resumed continues the restored servers.
func (p *plugin) Resumed(ctx context.Context, req *sdk.RestoreRequest) error {
	password, _ := req.Option("redis-password")
	for r, err := range req.Records.All() {
		if err != nil {
			return err
		}
		var address wrapperspb.StringValue
		if err := r.Decode(&address); err != nil {
			return err
		}
		if err := unpause(ctx, address.Value, password); err != nil {
			return err
		}
	}
	return nil
}

func unpause(ctx context.Context, address, password string) error {
	return with(ctx, address, password, func(c *client) error { return c.do("CLIENT UNPAUSE") })
}

func main() { sdk.Serve(&plugin{paused: map[sdk.TaskID]string{}}) }
