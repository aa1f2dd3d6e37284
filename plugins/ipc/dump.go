package ipc

import (
	"context"
	"fmt"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
)

// dump emits what one namespace has.
type dump struct {
	emit    sdk.Emitter
	host    sdk.Host
	object  uint64
	members []*sdk.Process
	// bulks counts the bulk records.
	bulks uint64
}

// Dump implements [sdk.Dumper].
func (*plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	for i := range req.Resources {
		r := &req.Resources[i]
		members := namespace.Members(req.Session, r)
		if len(members) == 0 {
			continue
		}
		d := &dump{emit: req.Records, host: req.Host, object: r.Object, members: members}
		if err := d.namespace(ctx, r.Namespace.Ino); err != nil {
			return fmt.Errorf("dump ipc namespace of task %d: %w", members[0].ID, err)
		}
	}
	return dumpDescriptors(ctx, req)
}

func (d *dump) namespace(ctx context.Context, inode uint64) error {
	return within(d.members[0].PID, func() error {
		limits, err := readSysctls()
		if err != nil {
			return err
		}
		if err := d.emit.Emit(ctx, kindNamespace, d.object, &ipcpb.Namespace{Inode: inode, Sysctls: limits}); err != nil {
			return err
		}
		for _, part := range []func(context.Context) error{d.dumpSegments, d.dumpQueues, d.dumpSemaphores, d.dumpMessageQueues} {
			if err := part(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// within runs f on a thread in the IPC namespace of a process.
func within(pid int, f func() error) error {
	ns, err := namespace.Open(pid, nsName)
	if err != nil {
		return err
	}
	defer ns.Close()
	return namespace.Within(ns, f)
}
