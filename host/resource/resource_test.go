package resource

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// self enumerates the test process.
func self(t *testing.T) *Set {
	t.Helper()
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	id := sdk.TaskID(os.Getpid())
	tree := &sdk.Tree{Root: id, Processes: []sdk.Process{{ID: id, PID: int(id), Threads: []sdk.Thread{{ID: id, TID: int(id)}}}}}
	set, err := Enumerate(context.Background(), tree, nothing{}, true)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func fileOf(t *testing.T, set *Set, fd int) sdk.Resource {
	t.Helper()
	for _, r := range set.Resources {
		if r.Kind == sdk.KindFile && slices.ContainsFunc(r.File.Refs, func(ref sdk.FDRef) bool { return ref.FD == fd }) {
			return r
		}
	}
	t.Fatalf("fd %d is in no resource", fd)
	return sdk.Resource{}
}

// TestDescriptionsAreToldApart: a duplicate is the same description, a second
// open of the same file at the same offset is another.
func TestDescriptionsAreToldApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	open := func() int {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	first, second := open(), open()
	dup, err := unix.FcntlInt(uintptr(first), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(dup) })
	set := self(t)
	a, b := fileOf(t, set, first), fileOf(t, set, second)
	if a.Object == b.Object {
		t.Error("two descriptions of one file are one resource")
	}
	want := []sdk.FDRef{{Task: a.Task, FD: first}, {Task: a.Task, FD: dup, Cloexec: true}}
	if !slices.Equal(a.File.Refs, want) {
		t.Errorf("references %v, want %v", a.File.Refs, want)
	}
	if a.File.Link != path || a.File.Type != sdk.TypeRegular || a.File.Flags&unix.O_APPEND == 0 || a.File.FS == "" {
		t.Errorf("file %+v", a.File)
	}
}

// TestClosedMeanwhile: of a tree that runs a descriptor may be closed between two
// looks at it; of a frozen one that is an error.
func TestClosedMeanwhile(t *testing.T) {
	pid := os.Getpid()
	fds := []*openFD{{pid: pid, fd: 0}, {pid: pid, fd: 1 << 20}}
	if sets, err := partition(fds, true); err != nil || len(sets) != 2 {
		t.Errorf("%d descriptions, %v", len(sets), err)
	}
	if _, err := partition(fds, false); !errors.Is(err, unix.EBADF) {
		t.Errorf("frozen: %v", err)
	}
}

func TestSocketsSayWhatTheyAre(t *testing.T) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := fileOf(t, self(t), int(f.Fd())).File.Socket
	if s == nil || s.Family != unix.AF_INET || s.Type != unix.SOCK_STREAM {
		t.Errorf("socket %+v", s)
	}
}

func TestPathOfASocketIsNoSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if f := fileOf(t, self(t), fd).File; f.Type != sdk.TypeSocket || f.Socket != nil {
		t.Errorf("file %+v", f)
	}
}

func TestMappingsAndFreeRange(t *testing.T) {
	set := self(t)
	if set.Free.Len() != FreeLen {
		t.Errorf("free range %+v", set.Free)
	}
	stack := false
	for _, r := range set.Resources {
		if r.Kind != sdk.KindVMA {
			continue
		}
		stack = stack || r.VMA.Path == "[stack]"
		if r.VMA.Overlaps(set.Free) {
			t.Errorf("mapping %+v is in the free range", r.VMA)
		}
	}
	if !stack {
		t.Error("no stack among the mappings")
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add("pos:\t0\nflags:\t02\nmnt_id:\t7\n")
	f.Fuzz(func(_ *testing.T, text string) { _ = parseInfo(text, &openFD{}) })
}

func FuzzParseNamespace(f *testing.F) {
	f.Add("uts:[4026531838]")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = parseNS(text) })
}

// nothing is a host that carries no namespace itself.
type nothing struct{}

func (nothing) Carries(string, uint64) bool { return false }

func (nothing) Owner(int, string) (int, bool, error) { return 0, true, nil }
func (nothing) Mount(_ uint64, id int) int           { return id }
