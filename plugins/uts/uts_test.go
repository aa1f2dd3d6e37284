package uts

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/uts/utspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// host is a host whose tapes all end with err.
type host struct {
	sdk.Host
	runs []tape.Run
	err  error
}

func (h *host) RunTapes(_ context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	h.runs = append(h.runs, runs...)
	return slices.Repeat([]tape.Outcome{{Err: h.err}}, len(runs)), nil
}

// pluginFD is the number of the plugin's pidfd in the tasks.
const pluginFD = 17

func request(h sdk.Host, ns *utspb.Namespace) *sdk.RestoreRequest {
	records := &tracetest.Records{}
	if ns != nil {
		_ = records.Emit(context.Background(), kindNamespace, 9, ns)
	}
	tree := &sdk.Tree{Root: 1, Processes: []sdk.Process{{ID: 1, PID: 11, Zombie: true}, {ID: 2, PID: os.Getpid()}, {ID: 3, PID: 13}}}
	return &sdk.RestoreRequest{Records: records, PluginFD: pluginFD, Session: &sdk.Session{Tree: tree, Host: h, Resources: []sdk.Resource{
		{Kind: sdk.KindNamespace, Object: 9, Namespace: &sdk.Namespace{Name: "uts", Tasks: []sdk.TaskID{1, 2, 3, 4}}},
		{Kind: sdk.KindNamespace, Object: 10, Namespace: &sdk.Namespace{Name: "uts", Tasks: []sdk.TaskID{1}}},
	}}}
}

func TestRestoreTapes(t *testing.T) {
	h := &host{}
	if err := (&plugin{}).RestoreNamespaces(context.Background(), request(h, &utspb.Namespace{Hostname: []byte("h")})); err != nil {
		t.Fatal(err)
	}
	// The zombie is in no namespace; the first that lives creates, the other joins.
	if len(h.runs) != 2 || h.runs[0].TID != os.Getpid() || h.runs[1].TID != 13 {
		t.Fatalf("runs %v", h.runs)
	}
	if got := h.runs[1].Tape.Calls[0].Args[0].Value; got != pluginFD {
		t.Errorf("pulls the namespace from descriptor %d, want %d", got, pluginFD)
	}
}

func TestRestoreRefuses(t *testing.T) {
	for name, ns := range map[string]*utspb.Namespace{
		"no record":        nil,
		"long host name":   {Hostname: bytes.Repeat([]byte("x"), 65)},
		"long domain name": {Domainname: bytes.Repeat([]byte("x"), 65)},
	} {
		h := &host{}
		err := (&plugin{}).RestoreNamespaces(context.Background(), request(h, ns))
		if !errors.Is(err, sdk.ErrCorrupt) || len(h.runs) != 0 {
			t.Errorf("%s: error %v after %d tapes", name, err, len(h.runs))
		}
		if _, err := (&plugin{}).CheckImage(context.Background(), request(h, ns)); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: check says %v", name, err)
		}
	}
	cause := errors.New("cause")
	err := (&plugin{}).RestoreNamespaces(context.Background(), request(&host{err: cause}, &utspb.Namespace{}))
	if !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
}
