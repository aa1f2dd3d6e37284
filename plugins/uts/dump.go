package uts

import (
	"context"
	"fmt"

	"github.com/firn-cr/firn/sdk"
)

// Dump implements [sdk.Dumper].
func (*plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	for _, r := range req.Resources {
		members := living(req.Session, &r)
		if len(members) == 0 {
			continue
		}
		ns, err := read(members[0].PID)
		if err != nil {
			return fmt.Errorf("dump uts namespace of task %d: %w", members[0].ID, err)
		}
		ns.Inode = r.Namespace.Ino
		if err := req.Records.Emit(ctx, kindNamespace, r.Object, ns); err != nil {
			return err
		}
	}
	return nil
}

// living are the processes in a namespace that are not zombies, in the order
// of the tree.
func living(s *sdk.Session, r *sdk.Resource) []*sdk.Process {
	if r.Kind != sdk.KindNamespace || r.Namespace == nil {
		return nil
	}
	var members []*sdk.Process
	for _, id := range r.Namespace.Tasks {
		if p := s.Tree.Process(id); p != nil && !p.Zombie {
			members = append(members, p)
		}
	}
	return members
}
