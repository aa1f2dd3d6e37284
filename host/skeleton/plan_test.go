package skeleton

import (
	"fmt"
	"testing"

	"github.com/firn-cr/firn/sdk"
)

// world executes a plan by the kernel's rules and fails on what the kernel
// would refuse.
type world struct {
	t    *testing.T
	sid  map[sdk.TaskID]sdk.TaskID
	pgid map[sdk.TaskID]sdk.TaskID
	ppid map[sdk.TaskID]sdk.TaskID
	dead map[sdk.TaskID]bool
}

func run(t *testing.T, plan Plan, out Outside) *world {
	t.Helper()
	w := &world{t, map[sdk.TaskID]sdk.TaskID{Host: out.Session}, map[sdk.TaskID]sdk.TaskID{Host: out.Group}, map[sdk.TaskID]sdk.TaskID{}, map[sdk.TaskID]bool{}}
	for i, s := range plan.Steps {
		if err := w.step(s); err != nil {
			t.Fatalf("step %d %+v: %v\nplan: %+v", i, s, err, plan.Steps)
		}
	}
	return w
}

func (w *world) step(s Step) error {
	_, exists := w.sid[s.Task]
	switch s.Op {
	case OpClone:
		if _, ok := w.sid[s.From]; exists || !ok || w.dead[s.From] {
			return fmt.Errorf("clone: exists %v, creator %v", exists, ok)
		}
		w.sid[s.Task], w.pgid[s.Task], w.ppid[s.Task] = w.sid[s.From], w.pgid[s.From], s.From
		if s.Sibling {
			w.ppid[s.Task] = w.ppid[s.From]
		}
		if w.ppid[s.Task] != s.Parent {
			return fmt.Errorf("parent %d", w.ppid[s.Task])
		}
	case OpSetsid:
		for t, g := range w.pgid {
			if g == s.Task && !w.dead[t] {
				return fmt.Errorf("setsid: leads a group")
			}
		}
		w.sid[s.Task], w.pgid[s.Task] = s.Task, s.Task
	case OpSetpgid:
		if w.sid[s.Task] == s.Task {
			return fmt.Errorf("setpgid: a session leader")
		}
		ok := s.PGID == s.Task
		for t, g := range w.pgid {
			ok = ok || g == s.PGID && w.sid[t] == w.sid[s.Task]
		}
		if !ok || !exists {
			return fmt.Errorf("setpgid: no such group in the session")
		}
		w.pgid[s.Task] = s.PGID
	case OpExit, OpRemove:
		w.dead[s.Task] = true
		if s.Op == OpRemove {
			delete(w.sid, s.Task)
			delete(w.pgid, s.Task)
		}
	}
	return nil
}

func proc(id, parent, pgid, sid sdk.TaskID) sdk.Process {
	return sdk.Process{ID: id, Parent: parent, PGID: pgid, SID: sid}
}

func used(ids ...sdk.TaskID) func(sdk.TaskID) bool {
	return func(id sdk.TaskID) bool {
		for _, u := range ids {
			if u == id {
				return true
			}
		}
		return false
	}
}

func TestPlanKeepsParentsSessionsAndGroups(t *testing.T) {
	zombie := proc(12, 10, 12, 10)
	zombie.Zombie = true
	tests := map[string][]sdk.Process{
		"one leader":               {proc(10, 0, 10, 10)},
		"job control pipeline":     {proc(10, 0, 10, 10), proc(11, 10, 11, 10), proc(12, 10, 11, 10), proc(13, 10, 11, 10)},
		"pipeline in shell group":  {proc(10, 0, 10, 10), proc(11, 10, 10, 10), proc(12, 10, 10, 10)},
		"child stayed in session":  {proc(10, 0, 10, 5), proc(11, 10, 11, 11), proc(12, 11, 10, 5)},
		"group leader gone":        {proc(10, 0, 10, 10), proc(12, 10, 11, 10), proc(13, 10, 11, 10)},
		"session leader gone":      {proc(10, 0, 9, 9), proc(11, 10, 9, 9)},
		"sibling in other session": {proc(10, 0, 10, 10), proc(11, 10, 11, 11), proc(12, 10, 11, 11)},
		"dead leader below":        {proc(10, 0, 10, 10), proc(12, 10, 11, 11), proc(13, 10, 11, 11)},
		"zombie group leader":      {proc(10, 0, 10, 10), zombie, proc(13, 10, 12, 10)},
		"late group leader":        {proc(10, 0, 10, 10), proc(11, 10, 13, 10), proc(13, 10, 13, 10)},
		"grandchildren":            {proc(10, 0, 10, 10), proc(11, 10, 11, 10), proc(12, 11, 12, 12), proc(14, 12, 14, 12), proc(15, 12, 14, 12)},
	}
	for name, procs := range tests {
		t.Run(name, func(t *testing.T) {
			tree := &sdk.Tree{Root: 10, Processes: procs}
			out := Nothing()
			out.Session, out.Group = 500, 501
			plan, blocks := New(tree, out)
			if len(blocks) > 0 || len(plan.Notes) > 0 {
				t.Fatalf("blocks %v, notes %v", blocks, plan.Notes)
			}
			w := run(t, plan, out)
			for _, p := range procs {
				if w.ppid[p.ID] != p.Parent || w.sid[p.ID] != p.SID || w.pgid[p.ID] != p.PGID || w.dead[p.ID] != p.Zombie {
					t.Errorf("process %d: parent %d session %d group %d dead %v; want %+v\n%+v", p.ID, w.ppid[p.ID], w.sid[p.ID], w.pgid[p.ID], w.dead[p.ID], p, plan.Steps)
				}
			}
			for id := range w.sid {
				if id != Host && tree.Process(id) == nil {
					t.Errorf("stand-in %d stays", id)
				}
			}
		})
	}
}

func TestPlanInTheRestorersSession(t *testing.T) {
	tree := &sdk.Tree{Root: 10, Processes: []sdk.Process{proc(10, 0, 7, 5), proc(11, 10, 7, 5)}}
	plan, blocks := New(tree, Outside{Session: 5, Group: 7, Used: used(5, 7)})
	if len(blocks) > 0 || len(plan.Notes) > 0 {
		t.Fatalf("blocks %v, notes %v", blocks, plan.Notes)
	}
	if len(plan.Steps) != 2 {
		t.Errorf("steps %+v, want two clones only", plan.Steps)
	}
}

// TestPlanJoinsTheRestorersSession: a job of one shell becomes one of another.
func TestPlanJoinsTheRestorersSession(t *testing.T) {
	procs := []sdk.Process{proc(10, 0, 10, 5), proc(11, 10, 11, 5), proc(12, 11, 11, 5), proc(13, 10, 13, 13)}
	tree := &sdk.Tree{Root: 10, Processes: procs}
	for _, u := range [][]sdk.TaskID{nil, {5}} {
		out := Outside{Session: 500, Group: 501, Join: true, Used: used(u...)}
		plan, blocks := New(tree, out)
		if len(blocks) > 0 || len(plan.Notes) > 0 {
			t.Fatalf("blocks %v, notes %v", blocks, plan.Notes)
		}
		w := run(t, plan, out)
		for _, p := range procs {
			want := p.SID
			if want == 5 {
				want = 500
			}
			if w.sid[p.ID] != want || w.pgid[p.ID] != p.PGID {
				t.Errorf("process %d: session %d group %d, want %d and %d", p.ID, w.sid[p.ID], w.pgid[p.ID], want, p.PGID)
			}
		}
	}
}

func TestPlanReplacesAForeignSession(t *testing.T) {
	tree := &sdk.Tree{Root: 10, Processes: []sdk.Process{proc(10, 0, 7, 5), proc(11, 10, 7, 5), proc(12, 10, 12, 12)}}
	out := Outside{Session: 500, Group: 501, Used: used(5, 7)}
	plan, blocks := New(tree, out)
	if len(blocks) > 0 || len(plan.Notes) == 0 {
		t.Fatalf("blocks %v, notes %v", blocks, plan.Notes)
	}
	w := run(t, plan, out)
	for _, id := range []sdk.TaskID{10, 11} {
		if w.sid[id] != 10 || w.pgid[id] != 10 {
			t.Errorf("process %d: session %d group %d, want those of the root", id, w.sid[id], w.pgid[id])
		}
	}
}

func TestPlanNamesWhatItCannotRebuild(t *testing.T) {
	// 12 was re-parented to 10 and is in the session of a live grandchild.
	tree := &sdk.Tree{Root: 10, Processes: []sdk.Process{proc(10, 0, 10, 10), proc(11, 10, 11, 10), proc(13, 11, 13, 13), proc(12, 10, 13, 13)}}
	_, blocks := New(tree, Nothing())
	if len(blocks) != 1 || blocks[0].Task != 12 {
		t.Errorf("blocks %+v, want one for task 12", blocks)
	}
}
