package uts

import (
	"context"
	"fmt"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
)

// Dump implements [sdk.Dumper].
func (*plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	for _, r := range req.Resources {
		members := namespace.Members(req.Session, &r)
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
