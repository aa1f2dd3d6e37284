// Package skeleton plans how the processes of a tree are created again so that
// parents, sessions and process groups are what they were.
//
// The kernel gives a process its parent and session only by inheritance: a
// child starts in the session that its creator is in at that moment, and
// CLONE_PARENT makes the creator's parent the child's parent. So the order of
// creation matters, and a session or group whose leader has gone needs a
// stand-in that lives just long enough (setsid(2), setpgid(2), clone(2)).
//
// The package is pure: a checkpoint uses it to tell beforehand whether a tree
// can be rebuilt, a restore executes the steps.
package skeleton

import (
	"fmt"
	"slices"

	"github.com/firn-cr/firn/sdk"
)

// Op is what a step does.
type Op uint8

// The operations of a plan.
const (
	// OpClone creates Task from From; with Sibling the parent is From's parent.
	OpClone Op = iota
	// OpSetsid makes Task lead a session.
	OpSetsid
	// OpSetpgid moves Task into the group PGID of its session.
	OpSetpgid
	// OpExit ends Task, which stays a zombie.
	OpExit
	// OpRemove ends the stand-in Task and has its parent reap it.
	OpRemove
)

// Host stands for the restorer itself as creator or parent.
const Host sdk.TaskID = 0

// Step is one operation.
type Step struct {
	Op      Op
	Task    sdk.TaskID
	From    sdk.TaskID // OpClone
	Parent  sdk.TaskID // OpClone, OpRemove: who is or becomes the parent
	Sibling bool       // OpClone
	PGID    sdk.TaskID // OpSetpgid
}

// Outside says what of the world outside the tree still exists under the
// numbers that the tree refers to. At checkpoint time use [Nothing].
type Outside struct {
	// Session and Group are those of the restorer.
	Session, Group sdk.TaskID
	// Join has the tree join the restorer's session, if it was in one that none
	// of its processes leads.
	Join bool
	// Used tells whether a number is taken as process, group or session.
	Used func(id sdk.TaskID) bool
}

// Nothing is an outside in which every number is free.
func Nothing() Outside { return Outside{Used: func(sdk.TaskID) bool { return false }} }

// Plan is the order of creation.
type Plan struct {
	Steps []Step
	// Notes are differences from the original tree that cannot be avoided.
	Notes []sdk.Finding
}

// New plans the tree. Findings with LevelBlock say that it cannot be rebuilt.
func New(tree *sdk.Tree, out Outside) (Plan, []sdk.Finding) {
	p := &planner{
		tree: tree, out: out,
		procs: map[sdk.TaskID]*sdk.Process{}, kids: map[sdk.TaskID][]*sdk.Process{},
		sid: map[sdk.TaskID]sdk.TaskID{}, pgid: map[sdk.TaskID]sdk.TaskID{}, parent: map[sdk.TaskID]sdk.TaskID{},
	}
	for i := range tree.Processes {
		pr := &tree.Processes[i]
		p.procs[pr.ID] = pr
		if pr.ID != tree.Root {
			p.kids[pr.Parent] = append(p.kids[pr.Parent], pr)
		}
	}
	p.sid[Host], p.pgid[Host] = out.Session, out.Group
	root := p.procs[tree.Root]
	if root == nil {
		return Plan{}, []sdk.Finding{{Level: sdk.LevelBlock, Subject: "tree", Text: "has no root"}}
	}
	p.root(root)
	p.groups()
	p.ends()
	return p.plan, p.blocks
}

type planner struct {
	tree    *sdk.Tree
	out     Outside
	procs   map[sdk.TaskID]*sdk.Process
	kids    map[sdk.TaskID][]*sdk.Process
	sid     map[sdk.TaskID]sdk.TaskID // session so far of what exists
	pgid    map[sdk.TaskID]sdk.TaskID
	parent  map[sdk.TaskID]sdk.TaskID
	created []sdk.TaskID // in order
	standIn []sdk.TaskID
	// joined is the root's session as at the checkpoint, when every reference to
	// it means the restorer's.
	joined sdk.TaskID
	// ownSession is set when the root's session cannot be entered again: every
	// reference to it means the root's own session then.
	ownSession sdk.TaskID
	plan       Plan
	blocks     []sdk.Finding
}

func (p *planner) clone(id, from sdk.TaskID, sibling bool) {
	parent := from
	if sibling {
		parent = p.parent[from]
	}
	p.plan.Steps = append(p.plan.Steps, Step{Op: OpClone, Task: id, From: from, Parent: parent, Sibling: sibling})
	p.sid[id], p.pgid[id], p.parent[id] = p.sid[from], p.pgid[from], parent
	p.created = append(p.created, id)
}

func (p *planner) setsid(id sdk.TaskID) {
	p.plan.Steps = append(p.plan.Steps, Step{Op: OpSetsid, Task: id})
	p.sid[id], p.pgid[id] = id, id
}

// wantSID is the session that a process shall end in.
func (p *planner) wantSID(pr *sdk.Process) sdk.TaskID {
	if p.ownSession != 0 && pr.SID == p.ownSession {
		return p.tree.Root
	}
	if p.joined != 0 && pr.SID == p.joined {
		return p.out.Session
	}
	return pr.SID
}

func (p *planner) root(root *sdk.Process) {
	x := root.SID
	switch {
	case x == root.ID, x == p.out.Session:
		p.clone(root.ID, Host, false)
	case p.procs[x] == nil && p.out.Join:
		p.joined = x
		p.clone(root.ID, Host, false)
	case p.procs[x] == nil && x != 0 && !p.out.Used(x):
		p.leader(x, Host)
		p.clone(root.ID, x, true)
	default:
		p.ownSession = x
		p.clone(root.ID, Host, false)
		p.note(root.ID, "session", fmt.Sprintf("session %d belongs to others now: the root leads a session of its own", x))
	}
	p.family(root)
}

// leader creates a stand-in that leads a session, as a child of parent.
func (p *planner) leader(id, parent sdk.TaskID) {
	p.clone(id, parent, false)
	p.setsid(id)
	p.standIn = append(p.standIn, id)
}

// family makes a process, which exists, lead its session if it did, and
// creates its descendants.
func (p *planner) family(t *sdk.Process) {
	leads := p.wantSID(t) == t.ID
	kids := slices.Clone(p.kids[t.ID])
	if leads && p.sid[t.ID] != t.ID {
		before := p.sid[t.ID]
		kids = slices.DeleteFunc(kids, func(c *sdk.Process) bool {
			if p.wantSID(c) != before || before == 0 {
				return false
			}
			p.child(c, t.ID, false)
			return true
		})
		p.setsid(t.ID)
	}
	// Leaders first: their siblings may need them as creators.
	for _, c := range kids {
		if w := p.wantSID(c); w == c.ID {
			p.child(c, t.ID, false)
		}
	}
	for _, c := range kids {
		if w := p.wantSID(c); w != c.ID {
			p.inSession(c, t, w)
		}
	}
}

func (p *planner) child(c *sdk.Process, from sdk.TaskID, sibling bool) {
	p.clone(c.ID, from, sibling)
	p.family(c)
}

// inSession creates a child of t in session x.
func (p *planner) inSession(c, t *sdk.Process, x sdk.TaskID) {
	if p.sid[t.ID] == x {
		p.child(c, t.ID, false)
		return
	}
	for _, s := range p.created {
		if p.parent[s] == t.ID && p.sid[s] == x {
			p.child(c, s, true)
			return
		}
	}
	if p.procs[x] != nil || p.out.Used(x) || slices.Contains(p.created, x) {
		p.blocks = append(p.blocks, sdk.Finding{
			Level: sdk.LevelBlock, Task: c.ID, Subject: "session",
			Text: fmt.Sprintf("is in session %d, which neither its parent %d nor a sibling is in", x, t.ID),
		})
		return
	}
	p.leader(x, t.ID)
	p.child(c, x, true)
}

// groups moves everybody into the right process group.
func (p *planner) groups() {
	for _, id := range slices.Clone(p.created) {
		pr := p.procs[id]
		if pr == nil {
			continue
		}
		want := pr.PGID
		if p.pgid[id] == want || !p.groupReady(id, want) {
			continue
		}
		p.setpgid(id, want)
	}
}

func (p *planner) setpgid(id, pgid sdk.TaskID) {
	p.plan.Steps = append(p.plan.Steps, Step{Op: OpSetpgid, Task: id, PGID: pgid})
	p.pgid[id] = pgid
}

// groupReady makes sure that a group exists in the session of a task, and
// tells whether the task is to be moved into it.
func (p *planner) groupReady(id, pgid sdk.TaskID) bool {
	sid := p.sid[id]
	for other, g := range p.pgid {
		if g == pgid && p.sid[other] == sid && (other != Host || pgid == p.out.Group) {
			return true
		}
	}
	if pgid == id {
		return true
	}
	if _, ok := p.parent[pgid]; ok {
		if p.sid[pgid] == sid {
			p.setpgid(pgid, pgid)
			return true
		}
	} else if pgid != 0 && !p.out.Used(pgid) && pgid != p.ownSession {
		p.clone(pgid, id, true)
		p.setpgid(pgid, pgid)
		p.standIn = append(p.standIn, pgid)
		return true
	}
	// The group belongs to others now. The whole job of the root, and only
	// that, becomes a group led by the root.
	root := p.tree.Root
	p.note(id, "process group", fmt.Sprintf("group %d belongs to others now: group %d instead", pgid, root))
	if p.sid[root] == sid {
		if p.pgid[root] != root {
			p.setpgid(root, root)
		}
		if id != root && p.pgid[id] != root {
			p.setpgid(id, root)
		}
	}
	return false
}

// ends lets zombies die and removes the stand-ins, after everybody has joined
// the groups and sessions that they held open.
func (p *planner) ends() {
	for _, id := range slices.Backward(p.created) {
		if pr := p.procs[id]; pr != nil && pr.Zombie {
			p.plan.Steps = append(p.plan.Steps, Step{Op: OpExit, Task: id})
		}
	}
	for _, id := range slices.Backward(p.standIn) {
		p.plan.Steps = append(p.plan.Steps, Step{Op: OpRemove, Task: id, Parent: p.parent[id]})
	}
}

func (p *planner) note(id sdk.TaskID, subject, text string) {
	p.plan.Notes = append(p.plan.Notes, sdk.Finding{Level: sdk.LevelNote, Task: id, Subject: subject, Text: text})
}
