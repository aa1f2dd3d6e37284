package task

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/internal/clocks"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// clocksObject is the object of the record of the clocks: they are the tree's,
// not one process's, whose objects are their TaskIDs.
const clocksObject = 0

// dumpClocks saves the clocks as the tree sees them. The check has made sure
// that all processes see the same.
func dumpClocks(ctx context.Context, req *sdk.DumpRequest) error {
	root := &req.Tree.Processes[0]
	now, err := clocks.Read(root.PID)
	if err != nil {
		return fmt.Errorf("dump clocks of task %d: %w", root.ID, err)
	}
	return req.Records.Emit(ctx, kindClocks, clocksObject,
		&taskpb.Clocks{MonotonicNs: now.Monotonic.Nanoseconds(), BoottimeNs: now.Boottime.Nanoseconds()})
}

// loadClocks reads the record, which every image has.
func loadClocks(records sdk.Records) (clocks.Reading, error) {
	for r, err := range records.Object(clocksObject) {
		if err != nil {
			return clocks.Reading{}, err
		}
		if r.Kind != kindClocks {
			continue
		}
		m := &taskpb.Clocks{}
		if err := r.Decode(m); err != nil {
			return clocks.Reading{}, err
		}
		if m.MonotonicNs < 0 || m.BoottimeNs < 0 {
			return clocks.Reading{}, fmt.Errorf("clocks at %d and %d ns: %w", m.MonotonicNs, m.BoottimeNs, sdk.ErrCorrupt)
		}
		return clocks.Reading{Monotonic: time.Duration(m.MonotonicNs), Boottime: time.Duration(m.BoottimeNs)}, nil
	}
	return clocks.Reading{}, fmt.Errorf("no record of the clocks: %w", sdk.ErrCorrupt)
}

// checkClocks reports what keeps the clocks from going on on this machine.
func checkClocks(req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	if _, err := loadClocks(req.Records); err != nil {
		return nil, err
	}
	own, err := procfs.Status(selfPID)
	if err != nil {
		return nil, err
	}
	return clocks.CheckMachine(req.Session, own.CapEff&(1<<unix.CAP_SYS_ADMIN) != 0), nil
}

// RestoreNamespaces implements [sdk.NamespaceRestorer]: the tree enters its
// cgroups, and the time namespace in which its clocks go on.
func (p *plugin) RestoreNamespaces(ctx context.Context, req *sdk.RestoreRequest) error {
	if err := p.enterCgroups(req); err != nil {
		return err
	}
	return restoreClocks(ctx, req)
}

func restoreClocks(ctx context.Context, req *sdk.RestoreRequest) error {
	saved, err := loadClocks(req.Records)
	if err != nil {
		return err
	}
	return clocks.Restore(ctx, req, saved)
}
