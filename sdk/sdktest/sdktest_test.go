package sdktest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

const (
	kindText = 1
	kindRaw  = 2
	kindBulk = 3
)

// subject is a plugin whose methods the tests set.
type subject struct {
	check func(*sdk.CheckRequest) ([]sdk.Finding, error)
	dump  func(context.Context, *sdk.DumpRequest) error
	seal  func(context.Context, *sdk.RestoreRequest) error
	abort func() error
}

func (s *subject) Describe() sdk.Description {
	return sdk.Description{
		Name: "subject", Version: "1.2.3", Summary: "a plugin of tests",
		Claims: []sdk.Claim{{Kind: sdk.KindFile, Type: sdk.TypeRegular}},
		Records: []sdk.RecordType{
			{Kind: kindText, Version: 7, Message: &wrapperspb.StringValue{}},
			{Kind: kindRaw, Version: 1, Name: "raw"},
			{Kind: kindBulk, Version: 1, Name: "pages"},
		},
	}
}

func (s *subject) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	return s.check(req)
}

func (s *subject) Dump(ctx context.Context, req *sdk.DumpRequest) error { return s.dump(ctx, req) }

func (s *subject) Seal(ctx context.Context, req *sdk.RestoreRequest) error { return s.seal(ctx, req) }

func (s *subject) Abort(context.Context) error { return s.abort() }

func TestRecordsRoundTrip(t *testing.T) {
	const objects = 3000
	page := bytes.Repeat([]byte("firn"), 3<<18)
	p := &subject{}
	p.dump = func(ctx context.Context, req *sdk.DumpRequest) error {
		for i := range uint64(objects) {
			text := strings.Repeat("x", int(i)) + fmt.Sprint(i)
			if err := req.Records.Emit(ctx, kindText, i, wrapperspb.String(text)); err != nil {
				return err
			}
		}
		buf, err := req.Records.Bulk(ctx, len(page)+100)
		if err != nil {
			return err
		}
		copy(buf.Payload(), page)
		buf.Trim(len(page))
		if err := buf.Commit(ctx, kindBulk, 1, 5); err != nil {
			return err
		}
		return req.Records.EmitRaw(ctx, kindRaw, 5, nil)
	}
	p.seal = func(_ context.Context, req *sdk.RestoreRequest) error {
		return checkRecords(req, objects, page)
	}
	h := sdktest.New(t, p, sdktest.Config{ImageFD: 1000, PluginFD: 1001})
	img, err := h.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if got := sdktest.Messages[wrapperspb.StringValue](t, img, kindText); len(got) != objects || got[1].Value != "x1" {
		t.Errorf("%d messages", len(got))
	}
	if _, err := h.Restore(img, wire.PhaseSeal); err != nil {
		t.Error(err)
	}
}

func checkRecords(req *sdk.RestoreRequest, objects int, page []byte) error {
	n := 0
	for r, err := range req.Records.All() {
		if err != nil {
			return err
		}
		n++
		if r.Kind == kindText && r.Version != 7 {
			return fmt.Errorf("version %d", r.Version)
		}
	}
	if n != objects+2 {
		return fmt.Errorf("%d records", n)
	}
	var own []sdk.Record
	for r, err := range req.Records.Object(5) {
		if err != nil {
			return err
		}
		own = append(own, r)
	}
	if len(own) != 3 || own[0].Kind != kindText || !own[1].Bulk || own[2].Kind != kindRaw {
		return fmt.Errorf("object 5 has %+v", own)
	}
	m := &wrapperspb.StringValue{}
	if err := own[0].Decode(m); err != nil || m.Value != "xxxxx5" {
		return fmt.Errorf("decoded %q: %w", m.Value, err)
	}
	got := make([]byte, own[1].BulkLen)
	if err := req.Records.ReadBulk(own[1], got, 0); err != nil || !bytes.Equal(got, page) {
		return fmt.Errorf("bulk differs: %w", err)
	}
	if err := req.Records.ReadBulk(own[1], got, 1); !errors.Is(err, sdk.ErrCorrupt) {
		return fmt.Errorf("read behind the bulk payload: %w", err)
	}
	if req.ImageFD != 1000 || req.PluginFD != 1001 {
		return fmt.Errorf("descriptors %d and %d", req.ImageFD, req.PluginFD)
	}
	return nil
}

func TestEmitterRefuses(t *testing.T) {
	p := &subject{dump: func(ctx context.Context, req *sdk.DumpRequest) error {
		if err := req.Records.EmitRaw(ctx, 99, 1, nil); err == nil {
			return errors.New("an undeclared kind was taken")
		}
		if err := req.Records.Emit(ctx, kindText, 1, wrapperspb.Bool(true)); err == nil {
			return errors.New("another message was taken")
		}
		if err := req.Records.EmitRaw(ctx, kindRaw, 1, make([]byte, 5<<20)); !errors.Is(err, sdk.ErrUnsupported) {
			return fmt.Errorf("a huge record: %w", err)
		}
		return nil
	}}
	if _, err := sdktest.New(t, p, sdktest.Config{}).Dump(); err != nil {
		t.Error(err)
	}
}

func TestHostServices(t *testing.T) {
	host := &sdktest.Host{
		Tapes: sdktest.Execute,
		Tracer: func(tid int) sdk.TraceInfo {
			return sdk.TraceInfo{TID: tid, SigMask: 1 << 9, Pending: [][]byte{make([]byte, 128)}, Rseq: &sdk.Rseq{Addr: 5, Size: 32}}
		},
	}
	p := &subject{dump: func(ctx context.Context, req *sdk.DumpRequest) error {
		good := &tape.Tape{}
		dir := good.Buffer(4096)
		cwd := good.Call(unix.SYS_GETCWD, dir.Arg(), tape.Imm(4096))
		bad := &tape.Tape{}
		bad.Try(unix.SYS_CLOSE, tape.Imm(-1))
		bad.Call(unix.SYS_CLOSE, tape.Imm(-1))
		out, err := req.Host.RunTapes(ctx, []tape.Run{{TID: 7, Tape: good}, {TID: 8, Tape: bad}})
		if err != nil {
			return err
		}
		n, err := out[0].Value(cwd)
		if err != nil {
			return err
		}
		want, _ := os.Getwd()
		if got := string(out[0].Bytes(dir)[:n-1]); got != want {
			return fmt.Errorf("getcwd: %q", got)
		}
		var call *tape.CallError
		if !errors.As(out[1].Err, &call) || call.Index != 1 || call.Errno != syscall.EBADF {
			return fmt.Errorf("bad tape: %w", out[1].Err)
		}
		infos, err := req.Host.Trace(ctx, []int{3, 4})
		if err != nil || len(infos) != 2 || infos[1].TID != 4 || infos[1].Rseq.Size != 32 || len(infos[0].Pending[0]) != 128 {
			return fmt.Errorf("trace: %+v: %w", infos, err)
		}
		req.Host.Progress(10, 10)
		return nil
	}}
	h := sdktest.New(t, p, sdktest.Config{Host: host})
	if _, err := h.Dump(); err != nil {
		t.Fatal(err)
	}
	if runs := host.Runs(); len(runs) != 2 || runs[1].TID != 8 || !runs[1].Tape.Calls[0].AllowError {
		t.Errorf("runs %+v", runs)
	}
	if r := host.Reports(); len(r) != 1 || r[0] != [2]int64{10, 10} {
		t.Errorf("progress %v", r)
	}
}

func TestErrorsAndPanics(t *testing.T) {
	p := &subject{abort: func() error { return nil }}
	h := sdktest.New(t, p, sdktest.Config{})
	p.dump = func(context.Context, *sdk.DumpRequest) error {
		return fmt.Errorf("fd 7 of task 41: %w: %w", sdk.ErrNotPermitted, syscall.EACCES)
	}
	_, err := h.Dump()
	if !errors.Is(err, sdk.ErrNotPermitted) || !errors.Is(err, syscall.EACCES) ||
		err.Error() != "dump: fd 7 of task 41: not permitted: permission denied" {
		t.Errorf("got %v", err)
	}
	p.dump = func(context.Context, *sdk.DumpRequest) error { panic("ouch") }
	if _, err := h.Dump(); err == nil || !strings.Contains(err.Error(), "panic: ouch") {
		t.Errorf("got %v", err)
	}
	if _, err := h.Open().Run(wire.PhaseLinkFiles); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("phase that the plugin lacks: %v", err)
	}
}

func TestAbortEndsPhases(t *testing.T) {
	running, aborted := make(chan struct{}), false
	p := &subject{
		dump: func(ctx context.Context, _ *sdk.DumpRequest) error {
			close(running)
			<-ctx.Done()
			return ctx.Err()
		},
		abort: func() error { aborted = true; return nil },
	}
	s := sdktest.New(t, p, sdktest.Config{}).Open()
	done := make(chan error, 1)
	go func() { _, err := s.Run(wire.PhaseDump); done <- err }()
	<-running
	if _, err := s.Run(wire.PhaseAbort); err != nil || !aborted {
		t.Errorf("abort: %v, called %v", err, aborted)
	}
	if err := <-done; !errors.Is(err, sdk.ErrAborted) {
		t.Errorf("the dump ended with %v", err)
	}
	if _, err := s.Run(wire.PhaseDump); !errors.Is(err, sdk.ErrAborted) {
		t.Errorf("dump after abort: %v", err)
	}
}

func TestSessionFields(t *testing.T) {
	cfg := sdktest.Config{
		Tree:      sdktest.Tree(os.Getpid()),
		Resources: []sdk.Resource{{Kind: sdk.KindTask, Object: 4, Task: 4}},
		Attended:  []sdk.Resource{{Kind: sdk.KindVMA, Object: 5, VMA: &sdk.VMA{Path: "/x"}}},
		Options:   map[string]string{"tcp-established": "true"},
	}
	p := &subject{check: func(req *sdk.CheckRequest) ([]sdk.Finding, error) {
		if !req.Frozen || !req.Enabled("tcp-established") || req.Resources[0].Object != 4 || req.Attended[0].VMA.Path != "/x" ||
			req.Tree.Process(sdk.TaskID(os.Getpid())) == nil {
			return nil, fmt.Errorf("got %+v", req.Session)
		}
		return []sdk.Finding{{Level: sdk.LevelBlock, Subject: "fd 9", Text: "no"}, {Subject: "fd 3"}}, nil
	}}
	found, err := sdktest.New(t, p, cfg).Check(true)
	if err != nil || len(sdktest.Blockers(found)) != 1 || len(found) != 2 {
		t.Errorf("%v: %v", found, err)
	}
}

func TestHandMadeImage(t *testing.T) {
	img := sdktest.NewImage(t)
	img.Add(t, kindText, 7, 1, wrapperspb.String("by hand"))
	img.AddBulk(t, kindBulk, 1, 2, []byte("pages"))
	img.AddRaw(t, kindRaw, 1, 3, []byte("raw"))
	p := &subject{seal: func(_ context.Context, req *sdk.RestoreRequest) error {
		n := 0
		for r, err := range req.Records.All() {
			if err != nil {
				return err
			}
			if n++; r.Bulk {
				b := make([]byte, 4)
				if err := req.Records.ReadBulk(r, b, 1); err != nil || string(b) != "ages" {
					return fmt.Errorf("bulk %q: %w", b, err)
				}
			}
		}
		if n != 3 {
			return io.ErrUnexpectedEOF
		}
		return nil
	}}
	if _, err := sdktest.New(t, p, sdktest.Config{}).Restore(img); err != nil {
		t.Error(err)
	}
	if got := img.Bulk(t, img.Records(t)[1]); string(got) != "pages" {
		t.Errorf("bulk %q", got)
	}
}
