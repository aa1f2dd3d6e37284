package skeleton

import (
	"fmt"
	"testing"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/sdk"
)

// spaces adds to a world the rules of the kernel for PID namespaces.
type spaces struct {
	*world
	m        *pidns.Map
	tree     *sdk.Tree
	ns       map[sdk.TaskID]int
	children map[sdk.TaskID]int
	number   map[sdk.TaskID][]uint32 // innermost first
}

// called is what a task is called in a namespace, 0 if it is not visible there.
func (s *spaces) called(id sdk.TaskID, ns int) int {
	numbers := s.number[id]
	if at := len(numbers) - 1 - s.m.Depth(ns); at >= 0 && s.m.Within(s.ns[id], ns) {
		return int(numbers[at])
	}
	return 0
}

func (s *spaces) step(st Step) error {
	switch st.Op {
	case OpClone:
		if st.Sibling && s.number[st.From] != nil && s.number[st.From][0] == 1 {
			return fmt.Errorf("clone: a sibling of the first process")
		}
		at := s.children[st.From]
		if st.NewNamespace {
			at = s.m.Of(st.Task)
			if s.m.Parent(at) != s.children[st.From] || st.SetTID[0] != 1 {
				return fmt.Errorf("clone: a namespace in another one")
			}
		}
		if s.tree.Process(st.Task) != nil && at != s.m.Of(st.Task) {
			return fmt.Errorf("clone: born in %d", at)
		}
		if len(st.SetTID) != s.m.Depth(at)+1 || st.SetTID[len(st.SetTID)-1] != uint32(st.Task) {
			return fmt.Errorf("clone: numbers %v in namespace %d", st.SetTID, at)
		}
		s.ns[st.Task], s.children[st.Task], s.number[st.Task] = at, at, st.SetTID
	case OpEnter:
		for id := range s.ns {
			if st.Number != 0 && s.called(id, s.ns[st.Task]) == st.Number {
				s.children[st.Task] = s.ns[id]
				return nil
			}
		}
		return fmt.Errorf("enter: there is no task %d", st.Number)
	case OpSetpgid:
		if st.By != st.Task && (s.ppid[st.Task] != st.By || s.called(st.Task, s.ns[st.By]) != st.Number) || st.Group == 0 {
			return fmt.Errorf("setpgid: by %d", st.By)
		}
	case OpRemove:
		if st.Parent != Host && s.called(st.Task, s.ns[st.Parent]) != st.Number {
			return fmt.Errorf("remove: %d is not what its parent calls it", st.Number)
		}
		for id, parent := range s.ppid {
			if parent == st.Task {
				s.ppid[id] = s.reaper(s.ns[st.Task])
			}
		}
	}
	if st.Op == OpEnter {
		return nil
	}
	return s.world.step(st)
}

func (s *spaces) reaper(ns int) sdk.TaskID {
	if init := s.m.Init(ns); init != 0 {
		return init
	}
	return pidns.InitID
}

func TestPlanInNamespaces(t *testing.T) {
	own := func(m pidns.Map) *pidns.Map {
		m.Own = true
		if m.Namespaces == nil {
			m.Namespaces = []pidns.Namespace{{Init: 1}}
		}
		return &m
	}
	two := []pidns.Namespace{{Init: 1}, {Init: 20}, {Parent: 1, Init: 30}}
	nested := own(pidns.Map{
		Namespaces: two, In: map[sdk.TaskID]int{20: 1, 21: 1, 22: 1, 30: 2}, Children: map[sdk.TaskID]int{10: 1, 22: 2},
		Inner: map[sdk.TaskID][]uint32{20: {1}, 21: {2}, 22: {3}, 30: {7, 1}},
	})
	for name, c := range map[string]struct {
		m     *pidns.Map
		procs []sdk.Process
	}{
		"first process":           {own(pidns.Map{}), []sdk.Process{proc(1, 0, 0, 0), proc(5, 1, 0, 0), proc(6, 1, 6, 0), proc(7, 6, 7, 7)}},
		"session after a child":   {own(pidns.Map{}), []sdk.Process{proc(1, 0, 1, 1), proc(5, 1, 0, 0), proc(6, 1, 1, 1)}},
		"daemon of a dead leader": {own(pidns.Map{}), []sdk.Process{proc(1, 0, 0, 0), proc(5, 1, 4, 4)}},
		"group of a dead leader":  {own(pidns.Map{}), []sdk.Process{proc(1, 0, 4, 0), proc(5, 1, 4, 0)}},
		"orphan of a grandchild's session": {own(pidns.Map{}), []sdk.Process{
			proc(1, 0, 0, 0), proc(5, 1, 0, 0), proc(6, 5, 6, 6), proc(8, 1, 6, 6), proc(9, 8, 9, 6),
		}},
		"nested": {nested, []sdk.Process{
			proc(1, 0, 0, 0), proc(10, 1, 0, 0), proc(20, 10, 0, 0), proc(21, 20, 21, 0), proc(22, 20, 22, 22), proc(30, 22, 22, 22),
		}},
		"groups that are not seen inside": {nested, []sdk.Process{
			proc(1, 0, 0, 0), proc(10, 1, 10, 0), proc(20, 10, 10, 0), proc(21, 20, 10, 0), proc(22, 20, 10, 0), proc(30, 22, 10, 0),
		}},
		"born before the first process": {nested, []sdk.Process{
			proc(1, 0, 0, 0), proc(10, 1, 0, 0), proc(21, 1, 0, 0), proc(20, 10, 0, 0), proc(22, 20, 0, 0), proc(30, 22, 0, 0),
		}},
		"left to an init of firn's": {own(pidns.Map{Namespaces: []pidns.Namespace{{}}}), []sdk.Process{
			proc(40, 0, 40, 40), proc(41, 1, 40, 40), proc(42, 1, 39, 39), proc(43, 1, 43, 43), proc(44, 41, 40, 40),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := &sdk.Tree{Root: c.procs[0].ID, Processes: c.procs}
			plan, blocks := New(tree, c.m, Nothing())
			if len(blocks) > 0 || len(plan.Notes) > 0 {
				t.Fatalf("blocks %v, notes %v", blocks, plan.Notes)
			}
			s := &spaces{
				world: run(t, Plan{}, Nothing()), m: c.m, tree: tree,
				ns: map[sdk.TaskID]int{Host: 0}, children: map[sdk.TaskID]int{}, number: map[sdk.TaskID][]uint32{},
			}
			if c.m.FirnInit() {
				s.sid[pidns.InitID], s.pgid[pidns.InitID], s.ppid[pidns.InitID] = pidns.InitID, pidns.InitID, Host
				s.ns[pidns.InitID], s.number[pidns.InitID] = 0, []uint32{1}
			}
			for i, st := range plan.Steps {
				if err := s.step(st); err != nil {
					t.Fatalf("step %d %+v: %v\nplan: %+v", i, st, err, plan.Steps)
				}
			}
			for _, p := range c.procs {
				if s.children[p.ID] != c.m.Of(p.ID) {
					t.Errorf("children of %d are born in %d, where it cannot have threads", p.ID, s.children[p.ID])
				}
			}
			for i, st := range plan.Children {
				if err := s.step(st); err != nil {
					t.Fatalf("step %d %+v: %v\nplan: %+v", i, st, err, plan.Children)
				}
			}
			for _, p := range c.procs {
				if s.ppid[p.ID] != p.Parent || s.sid[p.ID] != p.SID || s.pgid[p.ID] != p.PGID || s.children[p.ID] != c.m.ChildrenOf(p.ID) {
					t.Errorf("process %d: parent %d session %d group %d, children in %d; want %+v\n%+v",
						p.ID, s.ppid[p.ID], s.sid[p.ID], s.pgid[p.ID], s.children[p.ID], p, plan.Steps)
				}
			}
		})
	}
}
