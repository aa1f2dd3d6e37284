package task

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/task/internal/clocks"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

func timeNamespace(t *testing.T, pid int) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", pid))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestClocks restores two processes to clocks ahead of and behind the machine's
// and dumps them again, then two more with --host-clocks.
func TestClocks(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	_, err := os.Stat("/proc/self/timens_offsets")
	gate.Feature(t, "time namespaces", err == nil)
	ctx, h := context.Background(), tracetest.New(t)
	machine, err := clocks.Read(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	saved := clocks.Reading{Monotonic: machine.Monotonic + 100*time.Hour, Boottime: machine.Boottime / 2}
	image := &tracetest.Records{}
	if err := image.Emit(ctx, kindClocks, clocksObject,
		&taskpb.Clocks{MonotonicNs: int64(saved.Monotonic), BoottimeNs: int64(saved.Boottime)}); err != nil {
		t.Fatal(err)
	}
	restore := func(options map[string]string) *sdk.Session {
		s := h.Session(h.Start(1), h.Start(1))
		s.Options = options
		req := &sdk.RestoreRequest{Session: s, Records: image}
		for _, proc := range s.Tree.Processes {
			req.PluginFD = int(h.Call(proc.PID, unix.SYS_PIDFD_OPEN, tape.Imm(os.Getpid()), tape.Imm(0)))
		}
		if findings, err := checkClocks(req); err != nil || len(findings) != 0 {
			t.Fatalf("check image: %v, %v", findings, err)
		}
		if err := restoreClocks(ctx, req); err != nil {
			t.Fatal(err)
		}
		return s
	}

	s, start := restore(nil), time.Now()
	own, first := timeNamespace(t, os.Getpid()), timeNamespace(t, s.Tree.Processes[0].PID)
	if second := timeNamespace(t, s.Tree.Processes[1].PID); first == own || first != second {
		t.Errorf("time namespaces %s and %s, the test's own is %s", first, second, own)
	}
	again := &tracetest.Records{}
	if err := dumpClocks(ctx, &sdk.DumpRequest{Session: s, Records: again}); err != nil {
		t.Fatal(err)
	}
	got, err := loadClocks(again)
	most := time.Since(start) + 10*time.Second
	if mono, boot := got.Monotonic-saved.Monotonic, got.Boottime-saved.Boottime; err != nil || mono < 0 || boot < 0 || mono > most || boot > most {
		t.Errorf("the clocks went on by %v and %v, %v", mono, boot, err)
	}

	for _, proc := range restore(map[string]string{"host-clocks": "true"}).Tree.Processes {
		if ns := timeNamespace(t, proc.PID); ns != own {
			t.Errorf("with --host-clocks: time namespace %s, the test's own is %s", ns, own)
		}
	}
}
