package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
)

// hostFixture is a tree with a zombie, a stopped process and shared objects.
func hostFixture() *HostRecords {
	tree := &sdk.Tree{Root: 10, Processes: []sdk.Process{
		{ID: 10, PID: 10, PGID: 10, SID: 5, Comm: "a\xff(b) c", Threads: []sdk.Thread{{ID: 10, TID: 10}, {ID: 12, TID: 12}},
			Reserved: sdk.AddrRange{Start: 0x10000, End: 0x90000}},
		{ID: 11, PID: 11, Parent: 10, PGID: 11, SID: 5, Comm: "child", Threads: []sdk.Thread{{ID: 11, TID: 11}}},
		{ID: 13, PID: 13, Parent: 11, PGID: 11, SID: 5, Comm: "gone", Zombie: true},
	}, UserNamespaces: []sdk.UserNamespace{
		{Owner: 1000, UIDs: sdk.IDMap{{Inside: 0, Outside: 1000, Count: 1}}, SetgroupsDenied: true},
		{Parent: 1, Owner: 1000, GIDs: sdk.IDMap{{Inside: 1 << 31, Outside: 5, Count: 1 << 31}}},
	}}
	tree.Processes[1].UserNamespace = 2
	r := &HostRecords{Tree: TreeToProto(tree)}
	r.Tree.Processes[1].State = imagepb.State_STATE_STOPPED
	r.Tree.Processes[1].StopSignal = 19
	r.Tree.Processes[2].ExitStatus = 3 << 8
	for _, id := range [][2]uint32{{10, 10}, {12, 10}, {11, 11}} {
		r.Threads = append(r.Threads, &imagepb.HostThread{
			Id: id[0], Process: id[1], Arch: "amd64", Registers: pattern(216, uint64(id[0])),
			ExtendedState: pattern(2696, uint64(id[0])), SigMask: 1 << 63,
		})
	}
	r.Objects = []Object{
		{"files", sdk.Resource{Kind: sdk.KindFile, Object: 1, Task: 10, File: &sdk.File{
			Link: "/tmp/\xfe\xff (deleted)", Type: sdk.TypeRegular, Mode: 0o100644, Dev: 1 << 40, Ino: 1 << 63, Rdev: 7,
			Size: 1 << 50, Flags: 0o100002, Offset: -1, MountID: 29,
			Refs: []sdk.FDRef{{Task: 10, FD: 3, Cloexec: true}, {Task: 11, FD: 0}},
		}}},
		{"sockets", sdk.Resource{Kind: sdk.KindFile, Object: 2, Task: 11, File: &sdk.File{
			Link: "socket:[5]", Type: sdk.TypeSocket, Socket: &sdk.Socket{Family: 2, Type: 1, Protocol: 6},
			Refs: []sdk.FDRef{{Task: 11, FD: 9}},
		}}},
		{"uts", sdk.Resource{Kind: sdk.KindNamespace, Object: 3, Task: 10, Namespace: &sdk.Namespace{
			Name: "uts", Ino: 4026531838, Tasks: []sdk.TaskID{10, 11}, Owner: 1,
		}}},
	}
	return r
}

func writeHost(tb testing.TB, r *HostRecords) (*Image, error) {
	tb.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, testManifest())
	if err != nil {
		tb.Fatal(err)
	}
	if err := w.WriteHostRecords(r); err != nil {
		return nil, err
	}
	if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
		tb.Fatal(err)
	}
	i, err := open(bytes.NewReader(buf.Bytes()), int64(buf.Len()), "x.firn")
	if err != nil {
		tb.Fatal(err)
	}
	return i, i.Verify(context.Background())
}

func TestHostRecords(t *testing.T) {
	t.Parallel()
	want := hostFixture()
	i, err := writeHost(t, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := i.HostRecords()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("-written +read:\n%s", d)
	}
	tree := TreeFromProto(got.Tree)
	back := TreeToProto(tree)
	back.Processes[1].State, back.Processes[1].StopSignal = want.Tree.Processes[1].State, 19
	back.Processes[2].ExitStatus = 3 << 8
	if d := cmp.Diff(want.Tree, back, protocmp.Transform()); d != "" {
		t.Errorf("tree -written +converted:\n%s", d)
	}
}

func TestHostRecordsThatDisagree(t *testing.T) {
	t.Parallel()
	for name, edit := range map[string]func(r *HostRecords){
		"no tree":                 func(r *HostRecords) { r.Tree.Processes = nil },
		"root":                    func(r *HostRecords) { r.Tree.Root = 11 },
		"process twice":           func(r *HostRecords) { r.Tree.Processes[1].Id = 10 },
		"process zero":            func(r *HostRecords) { r.Tree.Processes[2].Id = 0 },
		"child before its parent": func(r *HostRecords) { p := r.Tree.Processes; p[1], p[2] = p[2], p[1] },
		"second root":             func(r *HostRecords) { r.Tree.Processes[1].Parent = 0 },
		"parent outside":          func(r *HostRecords) { r.Tree.Processes[1].Parent = 1 },
		"state":                   func(r *HostRecords) { r.Tree.Processes[0].State = 0 },
		"zombie with threads":     func(r *HostRecords) { r.Tree.Processes[2].Threads = []uint32{13} },
		"no threads":              func(r *HostRecords) { r.Tree.Processes[1].Threads = nil },
		"main thread":             func(r *HostRecords) { r.Tree.Processes[0].Threads = []uint32{12, 10} },
		"status of main thread": func(r *HostRecords) {
			r.Tree.Processes[0].Threads, r.Threads = []uint32{12}, r.Threads[1:]
			r.Tree.Processes[0].ExitStatus = 9 // as if by SIGKILL
		},
		"number of main thread": func(r *HostRecords) {
			r.Tree.Processes[0].Threads, r.Tree.Processes[1].Threads = []uint32{12}, []uint32{11, 10}
		},
		"thread twice":                   func(r *HostRecords) { r.Tree.Processes[0].Threads = []uint32{10, 12, 12} },
		"thread of two":                  func(r *HostRecords) { r.Tree.Processes[1].Threads = []uint32{11, 12} },
		"reserved range":                 func(r *HostRecords) { r.Tree.Processes[0].ReservedEnd = 1 },
		"registers missing":              func(r *HostRecords) { r.Threads = r.Threads[1:] },
		"registers twice":                func(r *HostRecords) { r.Threads = append(r.Threads, r.Threads[0]) },
		"registers of nobody":            func(r *HostRecords) { r.Threads[0].Id = 99 },
		"registers of another":           func(r *HostRecords) { r.Threads[0].Process = 11 },
		"object twice":                   func(r *HostRecords) { r.Objects[1].Resource.Object = 1 },
		"object of nobody":               func(r *HostRecords) { r.Objects[1].Resource.Task = 99 },
		"descriptor of nobody":           func(r *HostRecords) { r.Objects[0].Resource.File.Refs[0].Task = 99 },
		"descriptor below zero":          func(r *HostRecords) { r.Objects[0].Resource.File.Refs[0].FD = -1 },
		"descriptor twice":               func(r *HostRecords) { r.Objects[0].Resource.File.Refs[1] = r.Objects[1].Resource.File.Refs[0] },
		"namespace of nobody":            func(r *HostRecords) { r.Objects[2].Resource.Namespace.Tasks[0] = 99 },
		"user namespace in itself":       func(r *HostRecords) { r.Tree.UserNamespaces[1].Parent = 2 },
		"unknown user namespace":         func(r *HostRecords) { r.Tree.Processes[0].UserNamespace = 3 },
		"owner that is unknown":          func(r *HostRecords) { r.Objects[2].Resource.Namespace.Owner = 3 },
		"no ids":                         func(r *HostRecords) { r.Tree.UserNamespaces[0].Uids[0].Count = 0 },
		"ids beyond the last":            func(r *HostRecords) { r.Tree.UserNamespaces[1].Gids[0].Count++ },
		"user namespaces without bottom": nestUsers,
		"plugin name":                    func(r *HostRecords) { r.Objects[0].Plugin = "../x" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := hostFixture()
			edit(r)
			i, err := writeHost(t, r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := i.HostRecords(); !errors.Is(err, sdk.ErrCorrupt) {
				t.Errorf("error is %v", err)
			}
		})
	}
	r := hostFixture()
	r.Objects[0].Resource.Kind = sdk.KindVMA
	if _, err := writeHost(t, r); err == nil {
		t.Error("a mapping was written as an object")
	}
}

// nestUsers nests more user namespaces than the kernel does.
func nestUsers(r *HostRecords) {
	for i := len(r.Tree.UserNamespaces); i <= maxUserNamespaces; i++ {
		r.Tree.UserNamespaces = append(r.Tree.UserNamespaces, &imagepb.HostUserNamespace{Parent: uint32(i)})
	}
}

// TestMainExited: a main thread that has exited is missing among the threads.
func TestMainExited(t *testing.T) {
	t.Parallel()
	r := hostFixture()
	r.Tree.Processes[0].Threads, r.Threads = []uint32{12}, r.Threads[1:]
	r.Tree.Processes[0].ExitStatus = 7 << 8
	i, err := writeHost(t, r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := i.HostRecords()
	if err != nil {
		t.Fatal(err)
	}
	tree := TreeFromProto(got.Tree)
	if !tree.Processes[0].MainExited() || tree.Processes[1].MainExited() {
		t.Errorf("the threads are %v and %v", tree.Processes[0].Threads, tree.Processes[1].Threads)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	i, err := writeHost(t, hostFixture())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r, err := range i.Records(HostStream) {
		if err != nil {
			t.Fatal(err)
		}
		name, text, err := i.Describe(HostStream, r)
		if err != nil || !json.Valid(text) {
			t.Fatalf("%s: %v", text, err)
		}
		names = append(names, name)
		if name == "HostNamespace" && !strings.Contains(string(text), `"uts"`) {
			t.Errorf("namespace is %s", text)
		}
	}
	want := "HostTree HostThread HostThread HostThread HostFile HostFile HostNamespace"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("records are %s, want %s", got, want)
	}
	for _, c := range []struct {
		plugin     string
		record     sdk.Record
		name, text string
	}{
		{"files", sdk.Record{Kind: 3, Payload: []byte("abc")}, "RegularFile", `{"opaque":"YWJj"}`},
		{"files", sdk.Record{Kind: 4, Payload: []byte{}}, "kind 4", `{"opaque":""}`},
		{"mm", sdk.Record{Kind: 1, Bulk: true, BulkOffset: 4096, BulkLen: 9}, "kind 1", `{"bulk_length":9,"bulk_offset":4096}`},
	} {
		name, text, err := i.Describe(c.plugin, c.record)
		if err != nil || name != c.name || string(text) != c.text {
			t.Errorf("%s: %s %s %v, want %s %s", c.plugin, name, text, err, c.name, c.text)
		}
	}
	if _, _, err := i.Describe("nobody", sdk.Record{}); !errors.Is(err, ErrNoStream) {
		t.Errorf("plugin that is not there: %v", err)
	}
	if _, _, err := i.Describe(HostStream, sdk.Record{Kind: 1, Payload: []byte{0xff}}); !errors.Is(err, sdk.ErrCorrupt) {
		t.Errorf("damaged record: %v", err)
	}
}

func TestDescriptionsThatAreDamaged(t *testing.T) {
	t.Parallel()
	host := hostPlugin()
	for name, start := range map[string]*imagepb.StreamStart{
		"descriptors":   {Descriptors: []byte{0xff}},
		"truncated":     {Descriptors: host.Descriptors[:len(host.Descriptors)/2]},
		"kind twice":    {Records: []*imagepb.RecordType{{Kind: 1}, {Kind: 1}}},
		"no message":    {Descriptors: host.Descriptors, Records: []*imagepb.RecordType{{Kind: 1, Message: "x.Y"}}},
		"not a name":    {Descriptors: host.Descriptors, Records: []*imagepb.RecordType{{Kind: 1, Message: "..\xff"}}},
		"not a message": {Descriptors: host.Descriptors, Records: []*imagepb.RecordType{{Kind: 1, Message: "firn.image.v1.State"}}},
	} {
		if _, err := newDescriptions(start); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestManifestRoundTrip(t *testing.T) {
	t.Parallel()
	m := testManifest()
	m.Plugins[0].Descriptors = hostPlugin().Descriptors
	m.Plugins[1].Optional = true
	before := proto.CloneOf(m)
	var buf bytes.Buffer
	w, err := NewWriter(&buf, m)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, m, protocmp.Transform()); d != "" {
		t.Errorf("the caller's manifest was changed:\n%s", d)
	}
	if _, err := w.Commit(context.Background(), CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	i, err := open(bytes.NewReader(buf.Bytes()), int64(buf.Len()), "x.firn")
	if err != nil {
		t.Fatal(err)
	}
	got := proto.CloneOf(i.Manifest())
	if got.CreatedUnixNano == 0 || got.Arch == "" || got.PageSize == 0 {
		t.Errorf("manifest is %v", got)
	}
	got.CreatedUnixNano, got.Arch, got.PageSize = 0, "", 0
	if d := cmp.Diff(m, got, protocmp.Transform()); d != "" {
		t.Errorf("-written +read:\n%s", d)
	}
}

func TestManifestsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]*imagepb.Manifest{
		"host's name":    {Plugins: []*imagepb.Plugin{{Name: HostStream}}},
		"plugin twice":   {Plugins: []*imagepb.Plugin{{Name: "mm"}, {Name: "mm"}}},
		"name":           {Plugins: []*imagepb.Plugin{{Name: "M M"}}},
		"no name":        {Plugins: []*imagepb.Plugin{{}}},
		"architecture":   {Arch: "pdp11"},
		"page size":      {PageSize: 5000},
		"tiny page size": {PageSize: 512},
		"not UTF-8":      {Hostname: "\xff"},
	} {
		dir := t.TempDir()
		if _, err := Create(dir+"/x.firn", m); err == nil {
			t.Errorf("%s: no error", name)
		}
		if names := entries(t, dir); len(names) != 0 {
			t.Errorf("%s: directory has %q", name, names)
		}
	}
}
