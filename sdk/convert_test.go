package sdk_test

import (
	"context"
	"errors"
	"net"
	"reflect"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

// filler sets every field of a value to something that is not zero and that
// fits all the integers of the wire.
type filler struct{ n int64 }

func (f *filler) fill(v reflect.Value) {
	f.n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f.fill(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		f.fill(v.Index(0))
		f.fill(v.Index(1))
	case reflect.String:
		v.SetString("text " + string(rune('a'+f.n%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(uint64(f.n%3 + 1))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(f.n))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(f.n)
	default:
		panic("filler: " + v.Kind().String())
	}
}

func filled[T any]() T {
	var v T
	(&filler{}).fill(reflect.ValueOf(&v).Elem())
	return v
}

// mirror is a plugin that keeps what arrives and answers with what it has.
type mirror struct {
	findings []sdk.Finding
	runs     []tape.Run

	mu       sync.Mutex
	session  sdk.Session
	frozen   bool
	outcomes []tape.Outcome
	traces   []sdk.TraceInfo
}

var mirrorDescription = sdk.Description{
	Name: "mirror", Version: "1.2.3", Summary: "sends back",
	Claims: []sdk.Claim{
		{Kind: sdk.KindFile, Type: sdk.TypeChar, Anon: "[x]", Device: &sdk.Device{Major: 3, Minor: sdk.Any},
			Socket: &sdk.Socket{Family: 1, Type: sdk.Any, Protocol: 2}, Path: "/dev/**", FS: "tmpfs"},
		{Kind: sdk.KindNamespace, Namespace: "uts"},
	},
	Attends: []sdk.Claim{{Kind: sdk.KindVMA, Path: "/dev/gpu*"}},
	After:   []string{"files"},
	Records: []sdk.RecordType{
		{Kind: 1, Version: 2, Message: &wrapperspb.StringValue{}, Optional: true},
		{Kind: 7, Version: 65535, Name: "opaque"},
	},
	Capabilities: []string{"CAP_SYS_ADMIN"},
}

func (m *mirror) Describe() sdk.Description { return mirrorDescription }

func (m *mirror) Check(ctx context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session, m.frozen = *req.Session, req.Frozen
	var err, terr error
	m.outcomes, err = req.Host.RunTapes(ctx, m.runs)
	m.traces, terr = req.Host.Trace(ctx, []int{1, 2})
	return m.findings, errors.Join(err, terr)
}

func (m *mirror) Prepare(context.Context, *sdk.PrepareRequest) (*sdk.PrepareResponse, error) {
	r := filled[sdk.PrepareResponse]()
	return &r, nil
}

// mirrorHost is the host of a mirror.
type mirrorHost struct {
	runs     []tape.Run
	outcomes []tape.Outcome
	traces   []sdk.TraceInfo
}

func (h *mirrorHost) RunTapes(_ context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	h.runs = runs
	return h.outcomes, nil
}
func (h *mirrorHost) Snapshot(_ context.Context, pids []int) ([]sdk.Snapshot, error) {
	return make([]sdk.Snapshot, len(pids)), nil
}

func (h *mirrorHost) Trace(context.Context, []int) ([]sdk.TraceInfo, error) { return h.traces, nil }
func (h *mirrorHost) Progress(int64, int64)                                 {}

// connect serves p and returns a client of it.
func connect(t *testing.T, p sdk.Plugin) *wire.Client {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- sdk.ServeListener(ctx, lis, p, sdk.ListenerConfig{}) }()
	conn, err := grpc.NewClient("passthrough:test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return wire.NewClient(conn)
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
}

// TestEveryFieldCrossesTheWire sends values in which every field is set in
// both directions: a field that is added to a type and forgotten in a
// conversion fails here.
func TestEveryFieldCrossesTheWire(t *testing.T) {
	tree, resources := filled[sdk.Tree](), filled[[]sdk.Resource]()
	attended := filled[[]sdk.Resource]()
	program := &tape.Tape{}
	program.Try(3, program.Bytes([]byte("data")).Arg(), tape.Result(0).Arg())
	program.Calls[0].Args[1] = tape.Imm(5)
	p := &mirror{findings: filled[[]sdk.Finding](), runs: []tape.Run{{TID: 9, Tape: program}}}
	host := &mirrorHost{traces: filled[[]sdk.TraceInfo](), outcomes: []tape.Outcome{{Results: []int64{-1, 1 << 62}, Data: []byte("out")}}}
	c := connect(t, p)
	ctx := t.Context()
	options := map[string]string{"a": "b"}
	if err := c.Open(ctx, wire.OpenConfig{Options: options}); err != nil {
		t.Fatal(err)
	}
	services := make(chan error, 1)
	go func() { services <- c.ServeHost(ctx, wire.HostConfig{Host: host}) }()
	res, err := c.Run(ctx, wire.PhaseCheck, wire.Round{Tree: &tree, Resources: resources, Attended: attended, Frozen: true})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "findings", res.Findings, p.findings)
	equal(t, "tree", *p.session.Tree, tree)
	equal(t, "resources", p.session.Resources, resources)
	equal(t, "attended", p.session.Attended, attended)
	equal(t, "options", p.session.Options, options)
	equal(t, "frozen", p.frozen, true)
	equal(t, "tapes", host.runs, p.runs)
	equal(t, "outcomes", p.outcomes, host.outcomes)
	equal(t, "traces", p.traces, host.traces)
	res, err = c.Run(ctx, wire.PhasePrepare, wire.Round{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "estimate", res.Estimate, filled[sdk.PrepareResponse]())
	if err := c.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := <-services; err != nil {
		t.Errorf("services: %v", err)
	}
}

func TestDescriptionCrossesTheWire(t *testing.T) {
	info, err := connect(t, &mirror{}).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := mirrorDescription
	want.Records = append([]sdk.RecordType(nil), want.Records...)
	want.Records[0].Message = nil
	equal(t, "description", info.Description, want)
	equal(t, "messages", info.Messages, map[uint32]string{1: "google.protobuf.StringValue"})
	equal(t, "phases", info.Phases, []wire.Phase{wire.PhaseCheck, wire.PhasePrepare, wire.PhaseAbort})
	if len(info.Descriptors) == 0 || info.APIVersion != sdk.APIVersion {
		t.Errorf("%d bytes of descriptors, version %d", len(info.Descriptors), info.APIVersion)
	}
}

// TestNamesNeedNotBeUTF8: names of files and tasks are bytes, protobuf strings
// are not.
func TestNamesNeedNotBeUTF8(t *testing.T) {
	const name = "/tmp/\xff\xfe"
	p := &mirror{findings: []sdk.Finding{{Subject: "fd 3", Text: "lock on " + name}}}
	c := connect(t, p)
	if err := c.Open(t.Context(), wire.OpenConfig{}); err != nil {
		t.Fatal(err)
	}
	host := &mirrorHost{outcomes: []tape.Outcome{}, traces: make([]sdk.TraceInfo, 2)}
	go func() { _ = c.ServeHost(t.Context(), wire.HostConfig{Host: host}) }()
	res, err := c.Run(t.Context(), wire.PhaseCheck, wire.Round{
		Tree: &sdk.Tree{Processes: []sdk.Process{{Comm: name}}},
		Resources: []sdk.Resource{
			{Kind: sdk.KindFile, File: &sdk.File{Link: name}}, {Kind: sdk.KindVMA, VMA: &sdk.VMA{Path: name}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "comm", p.session.Tree.Processes[0].Comm, name)
	equal(t, "link", p.session.Resources[0].File.Link, name)
	equal(t, "path", p.session.Resources[1].VMA.Path, name)
	if len(res.Findings) != 1 || res.Findings[0].Subject != "fd 3" {
		t.Errorf("findings %+v", res.Findings)
	}
	if err := wire.DecodeError(wire.EncodeError(errors.New(name))); err == nil {
		t.Error("the error is lost")
	}
}
