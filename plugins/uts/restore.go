package uts

import (
	"context"
	"fmt"
	"os"

	"github.com/firn-cr/firn/plugins/uts/utspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// RestoreNamespaces implements [sdk.NamespaceRestorer]: all namespaces are
// made at the same time, then all who join them do.
func (*plugin) RestoreNamespaces(ctx context.Context, req *sdk.RestoreRequest) error {
	var creators []tape.Run
	var shared [][]*sdk.Process
	for _, r := range req.Resources {
		tasks := living(req.Session, &r)
		if len(tasks) == 0 {
			continue
		}
		ns, err := load(req.Records, r.Object)
		if err != nil {
			return fmt.Errorf("uts namespace of task %d: %w", tasks[0].ID, err)
		}
		creators = append(creators, tape.Run{TID: tasks[0].PID, Tape: create(ns)})
		if len(tasks) > 1 {
			shared = append(shared, tasks)
		}
	}
	if err := run(ctx, req.Host, "create", creators); err != nil {
		return err
	}
	var members []tape.Run
	for _, tasks := range shared {
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/uts", tasks[0].PID))
		if err != nil {
			return fmt.Errorf("uts namespace of task %d: %w", tasks[0].ID, err)
		}
		defer ns.Close()
		for _, p := range tasks[1:] {
			members = append(members, tape.Run{TID: p.PID, Tape: join(req.PluginFD, ns)})
		}
	}
	return run(ctx, req.Host, "join", members)
}

// load reads the record of a namespace.
func load(records sdk.Records, object uint64) (*utspb.Namespace, error) {
	for r, err := range records.Object(object) {
		if err != nil {
			return nil, err
		}
		if r.Kind != kindNamespace {
			continue
		}
		ns := &utspb.Namespace{}
		if err := r.Decode(ns); err != nil {
			return nil, err
		}
		return ns, valid(ns)
	}
	return nil, fmt.Errorf("no record of object %d: %w", object, sdk.ErrCorrupt)
}

func run(ctx context.Context, host sdk.Host, what string, runs []tape.Run) error {
	if len(runs) == 0 {
		return nil
	}
	outcomes, err := host.RunTapes(ctx, runs)
	if err != nil {
		return err
	}
	if len(outcomes) != len(runs) {
		return fmt.Errorf("%d outcomes of %d tapes: %w", len(outcomes), len(runs), sdk.ErrCorrupt)
	}
	for i := range outcomes {
		if err := outcomes[i].Err; err != nil {
			return fmt.Errorf("%s uts namespace in task %d: %w", what, runs[i].TID, err)
		}
	}
	return nil
}
