package wire

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// liar is a plugin that answers what it is told to.
type liar struct {
	pb.UnimplementedPluginServer
	describe *pb.DescribeResponse
	run      *pb.RunResponse
	calls    []*pb.ServiceCall
	replies  chan *pb.ServiceReply
}

func (l *liar) Describe(context.Context, *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	return l.describe, nil
}

func (l *liar) Run(context.Context, *pb.RunRequest) (*pb.RunResponse, error) { return l.run, nil }

func (l *liar) Services(stream pb.Plugin_ServicesServer) error {
	defer close(l.replies)
	for _, c := range l.calls {
		if err := stream.Send(c); err != nil {
			return err
		}
		if c.GetId() == 0 {
			continue
		}
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		l.replies <- r
	}
	return nil
}

func client(t *testing.T, l *liar) *Client {
	t.Helper()
	lis := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	pb.RegisterPluginServer(s, l)
	go func() { _ = s.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:liar", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
	})
	return NewClient(conn)
}

func TestLyingDescriptions(t *testing.T) {
	good := &pb.DescribeResponse{Name: "x", Version: "1", ApiVersion: 1}
	if _, err := client(t, &liar{describe: good}).Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*pb.DescribeResponse)
		want   error
	}{
		"api version":    {func(m *pb.DescribeResponse) { m.ApiVersion = 2 }, sdk.ErrVersion},
		"name":           {func(m *pb.DescribeResponse) { m.Name = "../x" }, sdk.ErrCorrupt},
		"claim kind":     {func(m *pb.DescribeResponse) { m.Claims = []*pb.Claim{{Kind: 257}} }, sdk.ErrCorrupt},
		"attends kind":   {func(m *pb.DescribeResponse) { m.Attends = []*pb.Claim{{Kind: 1 << 31}} }, sdk.ErrCorrupt},
		"record version": {func(m *pb.DescribeResponse) { m.Records = []*pb.RecordType{{Version: 1 << 16}} }, sdk.ErrCorrupt},
		"long list":      {func(m *pb.DescribeResponse) { m.After = make([]string, maxDeclared+1) }, sdk.ErrCorrupt},
	} {
		m := proto.Clone(good).(*pb.DescribeResponse)
		c.change(m)
		if _, err := client(t, &liar{describe: m}).Describe(t.Context()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLyingResults(t *testing.T) {
	for name, m := range map[string]*pb.RunResponse{
		"level":    {Findings: []*pb.Finding{{Level: 4}}},
		"twice":    {Provided: []*pb.Provided{{Object: 1}, {Object: 1}}},
		"negative": {Provided: []*pb.Provided{{Fd: -1}}},
		"estimate": {RecordBytes: -1},
	} {
		if _, err := client(t, &liar{run: m}).Run(t.Context(), PhaseCheck, Round{}); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// refusing is a host that must not be asked to run anything.
type refusing struct{ t *testing.T }

func (r refusing) RunTapes(context.Context, []tape.Run) ([]tape.Outcome, error) {
	r.t.Error("a bad tape came through")
	return nil, nil
}
func (r refusing) Snapshot(_ context.Context, pids []int) ([]sdk.Snapshot, error) {
	return make([]sdk.Snapshot, len(pids)), nil
}

func (r refusing) Trace(context.Context, []int) ([]sdk.TraceInfo, error) {
	return nil, sdk.ErrTaskGone
}
func (r refusing) Progress(int64, int64) {}

func TestHostileCalls(t *testing.T) {
	l := &liar{replies: make(chan *pb.ServiceReply, 10), calls: []*pb.ServiceCall{
		{Id: 1, Call: &pb.ServiceCall_RunTapes{RunTapes: &pb.RunTapes{Runs: []*pb.TapeRun{{Tid: -5}}}}},
		{Id: 2, Call: &pb.ServiceCall_RunTapes{RunTapes: &pb.RunTapes{Runs: []*pb.TapeRun{{Tid: 5, Calls: []byte("x")}}}}},
		{Id: 3, Call: &pb.ServiceCall_Submit{Submit: &pb.Submit{Segment: []byte("junk")}}},
		{Id: 4},
		{Id: 5, Call: &pb.ServiceCall_Trace{Trace: &pb.Trace{Tids: []int32{-1}}}},
		{Id: 6, Call: &pb.ServiceCall_Flush{Flush: &pb.Flush{Written: true}}},
		{Call: &pb.ServiceCall_Progress{Progress: &pb.Progress{Done: -1}}},
	}}
	if err := client(t, l).ServeHost(t.Context(), HostConfig{Host: refusing{t}}); err != nil {
		t.Errorf("services: %v", err)
	}
	want := []error{sdk.ErrCorrupt, sdk.ErrCorrupt, sdk.ErrUnsupported, sdk.ErrVersion, sdk.ErrTaskGone, nil}
	for i, w := range want {
		r := <-l.replies
		if r.GetId() != uint64(i+1) {
			t.Errorf("reply %d has id %d", i, r.GetId())
		}
		if err := DecodeError(r.GetError()); !errors.Is(err, w) {
			t.Errorf("reply %d: %v, want %v", i, err, w)
		}
	}
}

func TestPhaseNames(t *testing.T) {
	if got := PhaseRestoreMemory.String(); got != "restore memory" {
		t.Errorf("got %q", got)
	}
	for n, name := range pb.Phase_name {
		if p := Phase(n); n != 0 && (p.String() == "" || strings.Contains(p.String(), "_")) {
			t.Errorf("%s is called %q", name, p)
		}
	}
}

func TestErrors(t *testing.T) {
	if err := DecodeError(EncodeError(sdk.ErrInUse)); !errors.Is(err, sdk.ErrInUse) {
		t.Errorf("got %v", err)
	}
}

// FuzzFromPlugin decodes what a plugin can send.
func FuzzFromPlugin(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.DescribeResponse{Name: "x", Version: "1", ApiVersion: 1, Claims: []*pb.Claim{{Kind: 2, Path: "/x/**"}}},
		&pb.RunTapes{Runs: []*pb.TapeRun{{Tid: 1, Calls: make([]byte, 64)}}},
		&pb.RunResponse{Findings: []*pb.Finding{{Level: 1}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		d, r, t := &pb.DescribeResponse{}, &pb.RunResponse{}, &pb.RunTapes{}
		if proto.Unmarshal(b, d) == nil {
			_, _ = infoFromWire(d)
		}
		if proto.Unmarshal(b, r) == nil {
			_, _ = findingsFromWire(r.GetFindings())
			_, _ = providedFromWire(r.GetProvided())
		}
		if proto.Unmarshal(b, t) == nil {
			_, _ = tapesFromWire(t)
		}
	})
}
