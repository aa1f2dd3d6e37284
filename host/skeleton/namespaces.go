package skeleton

import (
	"slices"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/sdk"
)

// A process is born in the PID namespace that its creator has for its children:
// the creator's own, one further inside that the creator entered by setns(2), or
// a new one whose first process it is. The first process of a namespace cannot
// use CLONE_PARENT, and is the parent of what its namespace's processes leave
// behind (pid_namespaces(7)).

func (p *planner) block(id sdk.TaskID, subject, text string) {
	p.blocks = append(p.blocks, sdk.Finding{Level: sdk.LevelBlock, Task: id, Subject: subject, Text: text})
}

// of is the namespace of a process or stand-in.
func (p *planner) of(id sdk.TaskID) int {
	if ns, ok := p.standInNS[id]; ok {
		return ns
	}
	return p.ns.Of(id)
}

// isFirst tells whether a process begins a namespace below the first one.
func (p *planner) isFirst(id sdk.TaskID) bool { return p.of(id) > 0 && p.ns.IsInit(id) }

// birthplace is the namespace that the creator of a process must have for its
// children.
func (p *planner) birthplace(id sdk.TaskID) int {
	if p.isFirst(id) {
		return p.ns.Parent(p.of(id))
	}
	return p.of(id)
}

// born completes the step that creates a process, after one by which its creator
// makes it be born in its namespace.
func (p *planner) born(st Step) Step {
	at := p.birthplace(st.Task)
	if p.children[st.From] != at {
		p.enter(st.From, at)
	}
	st.SetTID = p.standInTID[st.Task]
	if st.SetTID == nil {
		st.SetTID = p.ns.SetTID(st.Task)
	}
	if p.isFirst(st.Task) {
		st.NewNamespace, p.made[p.of(st.Task)] = true, true
	}
	p.children[st.Task] = p.of(st.Task)
	return st
}

func (p *planner) enter(id sdk.TaskID, ns int) {
	p.plan.Steps = append(p.plan.Steps, p.entered(id, ns))
	p.children[id] = ns
}

// entered is the step by which a process's children will be born in a namespace,
// its own or one further inside.
func (p *planner) entered(id sdk.TaskID, ns int) Step {
	st := Step{Op: OpEnter, Task: id, Unshare: ns == pidns.NotYet}
	switch own := p.of(id); {
	case ns == own:
		st.Number = p.number(id, own)
	case ns > 0:
		st.Number = p.number(p.ns.Init(ns), own)
	}
	return st
}

// number is what a process, group or session is called in a namespace.
func (p *planner) number(id sdk.TaskID, ns int) int {
	if tid := p.standInTID[id]; tid != nil {
		return int(tid[0]) // the same everywhere
	}
	if p.ns == nil {
		return int(id)
	}
	return p.ns.Number(id, ns)
}

// ready tells whether the namespace exists in which a process is to be born.
func (p *planner) ready(c *sdk.Process) bool { return p.made[p.birthplace(c.ID)] }

func (p *planner) readyOrLater(c *sdk.Process) bool {
	if p.ready(c) {
		return true
	}
	p.later = append(p.later, c)
	return false
}

// deferred creates the processes whose namespaces did not exist yet.
func (p *planner) deferred() {
	for len(p.later) > 0 {
		todo := p.later
		p.later = nil
		for _, c := range todo {
			t := p.procs[c.Parent]
			switch {
			case t == nil || !p.readyOrLater(c):
			case p.wantSID(c) == c.ID:
				p.child(c, t.ID, false)
			default:
				p.inSession(c, t, p.wantSID(c))
			}
		}
		if len(p.later) == len(todo) {
			for _, c := range todo {
				p.block(c.ID, "pid namespace", "the first process of its PID namespace is a descendant of it")
			}
			return
		}
	}
}

// orphans creates what the tree has left to an init of Firn's, which exists
// already and leads a session of its own.
func (p *planner) orphans() {
	if !p.ns.FirnInit() {
		return
	}
	init := &sdk.Process{ID: pidns.InitID, PGID: pidns.InitID, SID: pidns.InitID}
	p.sid[init.ID], p.pgid[init.ID], p.parent[init.ID] = init.ID, init.ID, Host
	for _, c := range p.kids[init.ID] {
		if w := p.wantSID(c); w == c.ID {
			p.child(c, init.ID, false)
		}
	}
	for _, c := range p.kids[init.ID] {
		if w := p.wantSID(c); w != c.ID {
			p.inSession(c, init, w)
		}
	}
}

// canCreate tells whether a process can create another one, in the namespace
// that it belongs into.
func (p *planner) canCreate(from sdk.TaskID, c *sdk.Process, sibling bool) bool {
	return !(sibling && p.ns.IsInit(from)) && p.ns.Within(p.birthplace(c.ID), p.of(from))
}

// leaderNamespace is the namespace in which the leader of a group or session
// was that has ended, as far as its numbers tell. It must be that of the process
// that refers to it, or around it.
func (p *planner) leaderNamespace(id sdk.TaskID, member *sdk.Process) (ns int, known bool) {
	if p.ns == nil || member == nil {
		return 0, true
	}
	depth := len(p.ns.Inner[id])
	for ns = p.of(member.ID); p.ns.Depth(ns) > depth; ns = p.ns.Parent(ns) {
		continue
	}
	return ns, p.ns.Depth(ns) == depth
}

// abandon creates a child c of a namespace's first process in a session in which
// no child of that is: as the child of a stand-in that somebody in the session
// creates. When the stand-in ends, the kernel gives c to the first process.
func (p *planner) abandon(c, init *sdk.Process, sid sdk.TaskID) bool {
	if !p.ns.IsInit(init.ID) {
		return false
	}
	home := p.of(init.ID)
	for _, s := range p.created {
		if p.sid[s] != sid || !p.ns.Within(home, p.of(s)) || !p.made[home] {
			continue
		}
		id := p.unused()
		p.standInNS[id], p.standInTID[id] = home, slices.Repeat([]uint32{uint32(id)}, p.ns.Depth(home)+1)
		p.clone(id, s, false)
		p.standIn = append(p.standIn, id)
		p.child(c, id, false)
		p.parent[c.ID] = init.ID
		return true
	}
	return false
}

// unused is a number that nothing of the tree has in any namespace.
func (p *planner) unused() sdk.TaskID {
	taken := map[sdk.TaskID]bool{pidns.InitID: true}
	for i := range p.tree.Processes {
		pr := &p.tree.Processes[i]
		for _, id := range []sdk.TaskID{pr.ID, pr.PGID, pr.SID} {
			taken[id] = true
		}
		for _, th := range pr.Threads {
			taken[th.ID] = true
		}
	}
	for _, id := range p.created {
		taken[id] = true
	}
	if p.ns != nil {
		for _, inner := range p.ns.Inner {
			for _, n := range inner {
				taken[sdk.TaskID(n)] = true
			}
		}
	}
	id := pidns.InitID
	for taken[id] || p.out.Used(id) {
		id++
	}
	return id
}

// sees tells whether a group has a number in the namespace of a process.
func (p *planner) sees(id, pgid sdk.TaskID) bool {
	return p.number(pgid, p.of(id)) != 0
}

// inherit puts the creator of a process into the process's group, where that is
// the creator's, too, and the process will not see it to join it.
func (p *planner) inherit(c *sdk.Process, from sdk.TaskID) {
	f := p.procs[from]
	if f == nil || c.PGID == 0 || p.sees(c.ID, c.PGID) || p.pgid[from] == c.PGID || f.PGID != c.PGID {
		return
	}
	if p.groupReady(from, c.PGID) {
		p.setpgid(from, c.PGID)
	}
}

// namespaces has everybody's children be born in their own namespace, for the
// threads' sake, and later where they were to be.
func (p *planner) namespaces() {
	for _, id := range p.created {
		pr := p.procs[id]
		if pr == nil || pr.Zombie {
			continue
		}
		if own := p.of(id); p.children[id] != own {
			p.enter(id, own)
		}
		if to := p.ns.ChildrenOf(id); to != p.of(id) {
			if to > 0 && p.zombie(p.ns.Init(to)) {
				p.block(id, "pid_for_children namespace", "the first process of the namespace has ended: nobody can be born there")
			}
			p.plan.Children = append(p.plan.Children, p.entered(id, to))
		}
	}
}

func (p *planner) zombie(id sdk.TaskID) bool { return p.procs[id] != nil && p.procs[id].Zombie }
