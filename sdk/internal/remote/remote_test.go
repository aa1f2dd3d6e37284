package remote

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk/internal/sentinel"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// ways are the two ways of an error to the other side.
var ways = map[string]func(error) error{
	"message": func(err error) error {
		b, merr := proto.Marshal(Encode(err))
		if merr != nil {
			return merr
		}
		m := &pb.Error{}
		if merr := proto.Unmarshal(b, m); merr != nil {
			return merr
		}
		return Decode(m)
	},
	"status": func(err error) error { return FromStatus(Status(err)) },
}

func TestEverySentinelSurvives(t *testing.T) {
	for way, send := range ways {
		for n, e := range table {
			err := fmt.Errorf("dump fd 7 of task 41: %w", e.err)
			got := send(err)
			if !errors.Is(got, e.err) || got.Error() != err.Error() {
				t.Errorf("%s: sent %v, got %v", way, err, got)
			}
			for i, other := range table {
				if i != n && errors.Is(got, other.err) {
					t.Errorf("%s: %v arrived as %v too", way, e.err, other.err)
				}
			}
		}
	}
}

func TestTableIsComplete(t *testing.T) {
	have := map[pb.Error_Code]bool{pb.Error_CODE_UNKNOWN: true, pb.Error_CODE_TAPE_CALL: true}
	for _, e := range table {
		have[e.code] = true
	}
	for n, name := range pb.Error_Code_name {
		if !have[pb.Error_Code(n)] {
			t.Errorf("no sentinel for %s", name)
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), "../../errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	sentinels := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(v.Names[0].Name, "Err") {
			sentinels += len(v.Names)
		}
		return true
	})
	if sentinels != len(table) {
		t.Errorf("package sdk has %d sentinels, the table %d", sentinels, len(table))
	}
}

func TestErrnoAndCall(t *testing.T) {
	for way, send := range ways {
		got := send(&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES})
		if !errors.Is(got, syscall.EACCES) || !errors.Is(got, fs.ErrPermission) {
			t.Errorf("%s: errno is lost: %v", way, got)
		}
		if errors.Is(got, sentinel.ErrNotPermitted) {
			t.Errorf("%s: an errno became a sentinel", way)
		}
		call := &tape.CallError{Index: 3, Nr: 13, Errno: syscall.EINVAL}
		got = send(fmt.Errorf("task 5: %w: %w", sentinel.ErrKernel, call))
		var back *tape.CallError
		if !errors.As(got, &back) || *back != *call || !errors.Is(got, sentinel.ErrKernel) || !errors.Is(got, syscall.EINVAL) {
			t.Errorf("%s: got %v (%+v)", way, got, back)
		}
	}
}

func TestJoinedAndContext(t *testing.T) {
	for way, send := range ways {
		got := send(errors.Join(sentinel.ErrCorrupt, sentinel.ErrInUse, context.DeadlineExceeded))
		for _, want := range []error{sentinel.ErrCorrupt, sentinel.ErrInUse, sentinel.ErrTimeout} {
			if !errors.Is(got, want) {
				t.Errorf("%s: %v is lost", way, want)
			}
		}
		if got := send(context.Canceled); !errors.Is(got, sentinel.ErrAborted) {
			t.Errorf("%s: canceled: %v", way, got)
		}
		var plain *Error
		if got := send(errors.New("plain")); !errors.As(got, &plain) || got.Error() != "plain" || len(plain.chain) != 0 {
			t.Errorf("%s: plain: %v", way, got)
		}
	}
}

func TestForeignStatus(t *testing.T) {
	for code, want := range map[codes.Code]error{
		codes.DeadlineExceeded: sentinel.ErrTimeout,
		codes.Canceled:         sentinel.ErrAborted,
		codes.Unimplemented:    sentinel.ErrVersion,
	} {
		if got := FromStatus(status.Error(code, "x")); !errors.Is(got, want) || got.Error() != "x" {
			t.Errorf("%s: %v", code, got)
		}
	}
	if Encode(nil) != nil || Decode(nil) != nil || Status(nil) != nil || FromStatus(nil) != nil {
		t.Error("nil is not nil any more")
	}
}

func FuzzDecode(f *testing.F) {
	seed, _ := proto.Marshal(Encode(fmt.Errorf("x: %w", sentinel.ErrCorrupt)))
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &pb.Error{}
		if proto.Unmarshal(b, m) == nil {
			_ = Decode(m).Error()
		}
	})
}
