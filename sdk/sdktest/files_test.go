package sdktest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/wire"
)

// simple is a plugin in the simple form for files.
type simple struct{}

func (simple) Describe() sdk.Description {
	return sdk.Description{
		Name: "simple", Version: "1", Claims: []sdk.Claim{{Kind: sdk.KindFile}},
		Records: []sdk.RecordType{{Kind: kindRaw, Version: 1, Name: "content"}},
	}
}

func (simple) DumpFile(ctx context.Context, f *sdk.FileDump) error {
	b := make([]byte, f.Resource.File.Size)
	if _, err := unix.Pread(f.FD, b, 0); err != nil {
		return err
	}
	return f.Records.EmitRaw(ctx, kindRaw, f.Resource.Object, b)
}

func (simple) RestoreFile(_ context.Context, f *sdk.FileRestore) (int, error) {
	fd, err := unix.MemfdCreate("restored", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	_, err = unix.Pwrite(fd, f.Own[0].Payload, 0)
	return fd, err
}

func TestSimpleFiles(t *testing.T) {
	var files []sdk.Resource
	for i := range 3 {
		path := filepath.Join(t.TempDir(), "f")
		content := fmt.Sprintf("content %d", i)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, sdk.Resource{Kind: sdk.KindFile, Object: uint64(i + 10), File: &sdk.File{
			Link: path, Type: sdk.TypeRegular, Size: int64(len(content)),
			Refs: []sdk.FDRef{{Task: sdk.TaskID(os.Getpid()), FD: int(f.Fd())}},
		}})
	}
	h := sdktest.New(t, simple{}, sdktest.Config{Tree: sdktest.Tree(os.Getpid()), Resources: files})
	img, err := h.Dump()
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Restore(img)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := unix.Pread(s.FD(12), b, 0)
	if err != nil || string(b[:n]) != "content 2" {
		t.Errorf("restored %q: %v", b[:n], err)
	}
	fd := s.FD(10)
	s.Close()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
		t.Error("the descriptor outlives the session")
	}
	if s.FD(99) != -1 {
		t.Error("an object that nobody provided has a descriptor")
	}
}

// greedy provides what it should not.
type greedy struct {
	simple
	provide func(req *sdk.RestoreRequest) error
}

func (g greedy) RestoreObjects(_ context.Context, req *sdk.RestoreRequest) error {
	return g.provide(req)
}

func (g greedy) LinkFiles(_ context.Context, req *sdk.RestoreRequest) error { return req.Provide(1, 0) }

func TestProvideRefuses(t *testing.T) {
	for name, provide := range map[string]func(*sdk.RestoreRequest) error{
		"closed descriptor": func(req *sdk.RestoreRequest) error { return req.Provide(1, 9999) },
		"object twice": func(req *sdk.RestoreRequest) error {
			a, b := dup(t), dup(t)
			defer unix.Close(b)
			return errors.Join(req.Provide(1, a), req.Provide(1, b))
		},
		"descriptor twice": func(req *sdk.RestoreRequest) error {
			fd := dup(t)
			return errors.Join(req.Provide(1, fd), req.Provide(2, fd))
		},
	} {
		h := sdktest.New(t, greedy{provide: provide}, sdktest.Config{})
		s, err := h.Restore(sdktest.NewImage(t), wire.PhaseRestoreObjects)
		if err == nil || !strings.Contains(err.Error(), "provide object") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := s.Run(wire.PhaseLinkFiles); !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("provide in another phase: %v", err)
		}
		s.Close()
	}
}

func dup(t *testing.T) int {
	t.Helper()
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
