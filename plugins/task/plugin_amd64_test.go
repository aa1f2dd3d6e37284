package task

import (
	"context"
	"testing"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

// TestOverWire checkpoints three processes and restores them to three others,
// with everything going the way it goes between host and plugin.
func TestOverWire(t *testing.T) {
	h := tracetest.New(t)
	ctx := context.Background()
	fake := &sdktest.Host{
		Tapes: func(run tape.Run) tape.Outcome {
			o, err := h.RunTapes(ctx, []tape.Run{run})
			if err != nil {
				return tape.Outcome{Err: err}
			}
			return o[0]
		},
		Tracer: func(tid int) sdk.TraceInfo {
			info, err := h.Trace(ctx, []int{tid})
			if err != nil {
				return sdk.TraceInfo{}
			}
			return info[0]
		},
	}
	from := []sdk.Process{h.Start(2), h.Start(1), h.Start(3)}
	zombie := sdk.Process{ID: 1 << 21, PID: 1 << 21, Parent: from[0].ID, Zombie: true}
	session := h.Session(append(from, zombie)...)
	run := sdktest.New(t, New(), sdktest.Config{Tree: session.Tree, Resources: session.Resources, Host: fake})
	findings, err := run.Check(true)
	if err != nil || len(findings) != 0 {
		t.Fatalf("check: %v, %v", findings, err)
	}
	img, err := run.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if p, th := sdktest.Messages[taskpb.Process](t, img, kindProcess), sdktest.Messages[taskpb.Thread](t, img, kindThread); len(p) != 3 || len(th) != 6 {
		t.Fatalf("%d processes, %d threads", len(p), len(th))
	}
	if c := sdktest.Messages[taskpb.Clocks](t, img, kindClocks); len(c) != 1 || c[0].MonotonicNs <= 0 {
		t.Fatalf("clocks %v", c)
	}
	for i := range from {
		to := h.Start(len(from[i].Threads))
		p := &run.Tree.Processes[i]
		p.PID = to.PID
		for j := range to.Threads {
			to.Threads[j].ID = p.Threads[j].ID
		}
		p.Threads = to.Threads
	}
	if _, err := run.Restore(img, wire.PhaseCheckImage, wire.PhaseRestoreTasks, wire.PhaseSeal, wire.PhaseResumed); err != nil {
		t.Fatal(err)
	}
}
