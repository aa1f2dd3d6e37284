package pidns

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
)

// nested is a tree with a namespace of its own and two further ones inside.
func nested() *imagepb.HostTree {
	return &imagepb.HostTree{
		Root: 1, OwnPidNamespace: true, OwnProc: true,
		PidNamespaces: []*imagepb.HostPIDNamespace{{Init: 1}, {Init: 5}, {Parent: 1, Init: 6}},
		Processes: []*imagepb.HostProcess{
			{Id: 1, Threads: []uint32{1, 2}},
			{Id: 4, Parent: 1, Threads: []uint32{4}, ChildrenNamespace: 2},
			{Id: 5, Parent: 4, Threads: []uint32{5, 7}, PidNamespace: 1, ChildrenInNewNamespace: true},
			{Id: 6, Parent: 5, Threads: []uint32{6}, PidNamespace: 2},
		},
		Numbers: []*imagepb.HostNumbers{{Id: 5, Inner: []uint32{1}}, {Id: 6, Inner: []uint32{9, 1}}, {Id: 7, Inner: []uint32{2}}},
	}
}

func TestImage(t *testing.T) {
	tree := nested()
	m, err := FromImage(tree)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id       sdk.TaskID
		ns       int
		number   int
		set      []uint32
		children int
	}{
		{1, 0, 1, []uint32{1}, 0},
		{2, 0, 2, []uint32{2}, 0},
		{4, 0, 4, []uint32{4}, 1},
		{5, 1, 1, []uint32{1, 5}, NotYet},
		{6, 1, 9, []uint32{1, 9, 6}, 2},
		{6, 2, 1, []uint32{1, 9, 6}, 2},
		{5, 2, 0, []uint32{1, 5}, NotYet}, // not visible there
	} {
		if got := m.Number(c.id, c.ns); got != c.number {
			t.Errorf("number of %d in namespace %d is %d, want %d", c.id, c.ns, got, c.number)
		}
		if got := m.SetTID(c.id); !slices.Equal(got, c.set) {
			t.Errorf("numbers of %d are %v, want %v", c.id, got, c.set)
		}
		if got := m.ChildrenOf(c.id); got != c.children {
			t.Errorf("children of %d are born in %d, want %d", c.id, got, c.children)
		}
	}
	if !m.IsOwn() || !m.HasProc() || !m.Nested() || m.FirnInit() || !m.IsInit(1) || !m.IsInit(5) || m.IsInit(4) {
		t.Errorf("map %+v", m)
	}
	again := nested()
	again.PidNamespaces, again.Numbers, again.OwnPidNamespace, again.OwnProc = nil, nil, false, false
	for _, p := range again.Processes {
		p.PidNamespace, p.ChildrenNamespace, p.ChildrenInNewNamespace = 0, 0, false
	}
	if m.Fill(again); !proto.Equal(again, tree) {
		t.Errorf("written again:\n%v\nwas\n%v", again, tree)
	}
}

// TestImagePlain: a tree without namespaces has no map, whose methods work.
func TestImagePlain(t *testing.T) {
	m, err := FromImage(&imagepb.HostTree{Root: 7, Processes: []*imagepb.HostProcess{{Id: 7, Threads: []uint32{7}}}})
	if err != nil || m != nil {
		t.Fatalf("map %+v: %v", m, err)
	}
	if m.IsOwn() || m.HasProc() || m.FirnInit() || m.IsInit(1) || m.Of(7) != 0 || m.ChildrenOf(7) != 0 || !slices.Equal(m.SetTID(7), []uint32{7}) {
		t.Error("nil is not the map of a tree without namespaces")
	}
	n := New(m)
	if !n.IsOwn() || !n.HasProc() || !n.FirnInit() || !n.IsInit(InitID) || n.Number(7, 0) != 7 {
		t.Errorf("map %+v", n)
	}
}

func TestImageDamaged(t *testing.T) {
	for text, damage := range map[string]func(*imagepb.HostTree){
		"lies in 1":                    func(t *imagepb.HostTree) { t.PidNamespaces[1].Parent = 1 },
		"in PID namespace 3 of 3":      func(t *imagepb.HostTree) { t.Processes[3].PidNamespace = 3 },
		"in PID namespace 4 of 3":      func(t *imagepb.HostTree) { t.Processes[1].ChildrenNamespace = 4 },
		"further numbers of 5":         func(t *imagepb.HostTree) { t.Numbers[0].Inner[0] = 0 },
		"or there twice":               func(t *imagepb.HostTree) { t.Numbers[1].Id = 5 },
		"no PID namespace":             func(t *imagepb.HostTree) { t.PidNamespaces = nil; t.Processes = t.Processes[:1] },
		"its own /proc":                func(t *imagepb.HostTree) { t.OwnPidNamespace = false; t.PidNamespaces[0].Init = 0 },
		"not its first process":        func(t *imagepb.HostTree) { t.Processes[0].Id, t.Processes[0].Threads = 3, []uint32{3, 2} },
		"task 7 has 2 numbers":         func(t *imagepb.HostTree) { t.Numbers[2].Inner = []uint32{2, 2} },
		"task 7 has 0 numbers":         func(t *imagepb.HostTree) { t.Numbers = t.Numbers[:2] },
		"number 1 of PID namespace 1":  func(t *imagepb.HostTree) { t.Numbers[1].Inner[0] = 1 },
		"has number 3":                 func(t *imagepb.HostTree) { t.Numbers[1].Inner[1] = 3 },
		"born outside":                 func(t *imagepb.HostTree) { t.Processes[3].ChildrenNamespace = 1 },
		"nor inside it":                func(t *imagepb.HostTree) { t.Processes[1].Parent = 6 },
		"PID namespace 2 has no first": func(t *imagepb.HostTree) { t.Processes[3].PidNamespace = 1; t.Numbers[1].Inner = []uint32{9} },
		"nested more than 32 levels deep": func(t *imagepb.HostTree) {
			for i := len(t.PidNamespaces); i < 40; i++ {
				t.PidNamespaces = append(t.PidNamespaces, &imagepb.HostPIDNamespace{Parent: uint32(i - 1)})
			}
		},
	} {
		tree := nested()
		damage(tree)
		if _, err := FromImage(tree); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want an error with %q, got %v", text, err)
		}
	}
}
