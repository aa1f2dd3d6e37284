package openfile_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/sdktest"
)

func TestEach(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 1000} {
		var sum atomic.Int64
		if err := openfile.Each(t.Context(), n, func(i int) error { sum.Add(int64(i)); return nil }); err != nil {
			t.Fatal(err)
		}
		if want := int64(n * (n - 1) / 2); sum.Load() != want {
			t.Errorf("%d: sum %d, want %d", n, sum.Load(), want)
		}
	}
	bad := errors.New("bad")
	err := openfile.Each(t.Context(), 1000, func(i int) error {
		if i == 500 {
			return bad
		}
		return nil
	})
	if !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := openfile.Each(ctx, 1000, func(int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestReport(t *testing.T) {
	var r openfile.Report
	b := &sdk.Resource{Object: 9, Task: 3, File: &sdk.File{Refs: []sdk.FDRef{{Task: 3, FD: 7}}}}
	a := &sdk.Resource{Object: 4, Task: 2}
	r.Block(b, "one", "help")
	r.Note(a, "two")
	r.Note(b, "three")
	f := r.Findings()
	want := []string{"2 file two", "3 fd 7 one", "3 fd 7 three"}
	for i := range want {
		if got := fmt.Sprint(f[i].Task, " ", f[i].Subject, " ", f[i].Text); got != want[i] {
			t.Errorf("finding %d: %q, want %q", i, got, want[i])
		}
	}
	if f[1].Level != sdk.LevelBlock || f[1].Help != "help" || f[2].Level != sdk.LevelNote {
		t.Errorf("%+v", f)
	}
}

func TestAccess(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tree := sdktest.Tree(os.Getpid())
	a := openfile.NewAccess(tree)
	defer a.Close()
	r := &sdk.Resource{Object: 1, Task: tree.Root, File: &sdk.File{Refs: []sdk.FDRef{{Task: tree.Root, FD: int(f.Fd())}}}}
	dup, err := a.Dup(r)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dup)
	if _, err := f.Seek(5, 0); err != nil {
		t.Fatal(err)
	}
	if off, err := unix.Seek(dup, 0, unix.SEEK_CUR); off != 5 || err != nil {
		t.Errorf("the duplicate is at %d: %v", off, err)
	}
	if info, err := a.FDInfo(r); err != nil || info.Pos != 5 {
		t.Errorf("fdinfo %+v: %v", info, err)
	}
	for _, bad := range []*sdk.Resource{{}, {File: &sdk.File{Refs: []sdk.FDRef{{Task: 0, FD: 1}}}}} {
		if _, err := a.Dup(bad); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
