package uts

import (
	"context"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/uts/utspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

// tree are three processes: the first two share a namespace, the third has one
// of its own. The objects are 7 and 8.
func tree(h *tracetest.Host) (*sdk.Session, []sdk.Process) {
	processes := []sdk.Process{h.Start(1), h.Start(1), h.Start(1)}
	s := h.Session(processes...)
	s.Resources = []sdk.Resource{
		{Kind: sdk.KindNamespace, Object: 7, Namespace: &sdk.Namespace{Name: "uts", Ino: 70,
			Tasks: []sdk.TaskID{processes[0].ID, processes[1].ID}}},
		{Kind: sdk.KindNamespace, Object: 8, Namespace: &sdk.Namespace{Name: "uts", Ino: 80,
			Tasks: []sdk.TaskID{processes[2].ID}}},
	}
	return s, processes
}

func namespaceOf(t *testing.T, pid int) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/uts", pid))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// pidfd opens one of this process in all of them, under the same number.
func pidfd(h *tracetest.Host, processes []sdk.Process) int {
	fd := 0
	for _, p := range processes {
		fd = int(h.Call(p.PID, unix.SYS_PIDFD_OPEN, tape.Imm(os.Getpid()), tape.Imm(0)))
	}
	return fd
}

func TestRoundTrip(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	ctx, p, h := context.Background(), &plugin{}, tracetest.New(t)
	from, processes := tree(h)
	h.Run(processes[0].PID, create(&utspb.Namespace{Hostname: []byte("web-1"), Domainname: []byte("example.net")}))
	ns, err := namespace.Open(processes[0].PID, "uts")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h.Run(processes[1].PID, namespace.Join(pidfd(h, processes), ns, unix.CLONE_NEWUTS))
	h.Run(processes[2].PID, create(&utspb.Namespace{Hostname: []byte{0xff, ' ', '"'}}))

	findings, err := p.Check(ctx, &sdk.CheckRequest{Session: from})
	if err != nil || len(findings) != 2 || findings[0].Level != sdk.LevelOK {
		t.Fatalf("check: %v, %v", findings, err)
	}
	image := &tracetest.Records{}
	if err := p.Dump(ctx, &sdk.DumpRequest{Session: from, Records: image}); err != nil {
		t.Fatal(err)
	}

	to, restored := tree(h)
	req := &sdk.RestoreRequest{Session: to, Records: image, PluginFD: pidfd(h, restored)}
	if findings, err := p.CheckImage(ctx, req); err != nil || len(findings) != 0 {
		t.Fatalf("check image: %v, %v", findings, err)
	}
	if err := p.RestoreNamespaces(ctx, req); err != nil {
		t.Fatal(err)
	}
	first, second, third := namespaceOf(t, restored[0].PID), namespaceOf(t, restored[1].PID), namespaceOf(t, restored[2].PID)
	if first != second || first == third || first == namespaceOf(t, os.Getpid()) || third == namespaceOf(t, os.Getpid()) {
		t.Errorf("namespaces %s, %s, %s", first, second, third)
	}
	for i, want := range []struct{ host, domain string }{{"web-1", "example.net"}, {"web-1", "example.net"}, {"\xff \"", ""}} {
		ns, err := read(restored[i].PID)
		if err != nil || string(ns.Hostname) != want.host || string(ns.Domainname) != want.domain {
			t.Errorf("names in task %d: %q, %q, %v", i, ns.GetHostname(), ns.GetDomainname(), err)
		}
	}
}

func TestReadLeavesThePluginAlone(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	h := tracetest.New(t)
	p := h.Start(1)
	h.Run(p.PID, create(&utspb.Namespace{Hostname: []byte("elsewhere")}))
	before := namespaceOf(t, os.Getpid())
	for range 100 {
		if ns, err := read(p.PID); err != nil || string(ns.Hostname) != "elsewhere" {
			t.Fatalf("%v, %v", ns, err)
		}
	}
	if now := namespaceOf(t, os.Getpid()); now != before {
		t.Errorf("in namespace %s, was in %s", now, before)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) > 50 {
		t.Errorf("%d threads, %v", len(tasks), err)
	}
}
