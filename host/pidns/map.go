// Package pidns knows the PID namespaces of a tree (pid_namespaces(7)): which
// processes are in which, what numbers they have there, and what of a mount
// namespace is there for the sake of a /proc of their own only.
//
// A task has a number in its own PID namespace and in every one around it. The
// number that it has in the root's is its [sdk.TaskID]; a [Map] has those of
// the namespaces below. What numbers the host uses for the tasks does not
// matter to the tree, unless the root shares the host's namespace.
package pidns

import (
	"github.com/firn-cr/firn/sdk"
)

// InitID is the number of the first process of every PID namespace.
const InitID sdk.TaskID = 1

// Namespace is one PID namespace of a tree.
type Namespace struct {
	// Parent is the index of the namespace around it; 0 for the first.
	Parent int
	// Init is the ID of its first process. It is 0 in the first one if that is
	// not the tree's own, or has an init of Firn's.
	Init sdk.TaskID
}

// Map tells in which PID namespaces the processes of a tree are. The zero value
// and nil are those of a tree that has none of its own.
type Map struct {
	// Namespaces has every namespace before those nested in it. The first one
	// is the root's. None means one, which is not the tree's own.
	Namespaces []Namespace
	// Own says that the first namespace is the tree's own. Otherwise it is the
	// one in which the tree was found, or is to be restored.
	Own bool
	// Proc says that the tree has a mount namespace of its own, which differs
	// from that of the host by the /proc of the first namespace.
	Proc bool
	// In is the index of a process's namespace; 0 for one that is not there.
	In map[sdk.TaskID]int
	// Children is the namespace in which the children of a process's main
	// thread are born, if not in its own. [NotYet] is one whose first process
	// the next child will be.
	Children map[sdk.TaskID]int
	// Inner are the numbers that tasks, groups and sessions have in the
	// namespaces below the first one, down to their own.
	Inner map[sdk.TaskID][]uint32
}

// NotYet stands for a namespace that has no process yet.
const NotYet = -1

// Nested tells whether there is more than one namespace.
func (m *Map) Nested() bool { return m != nil && len(m.Namespaces) > 1 }

// IsOwn tells whether the tree has a PID namespace of its own.
func (m *Map) IsOwn() bool { return m != nil && m.Own }

// HasProc tells whether the tree has its own /proc.
func (m *Map) HasProc() bool { return m != nil && m.Proc }

// FirnInit tells whether the first process of the tree's own namespace is not
// part of the tree, but an init of Firn's.
func (m *Map) FirnInit() bool { return m.IsOwn() && m.Namespaces[0].Init == 0 }

// Of is the index of a process's namespace.
func (m *Map) Of(id sdk.TaskID) int {
	if m == nil {
		return 0
	}
	return m.In[id]
}

// ChildrenOf is the index of the namespace in which a process's children are
// born, or [NotYet].
func (m *Map) ChildrenOf(id sdk.TaskID) int {
	if m != nil {
		if ns, ok := m.Children[id]; ok {
			return ns
		}
	}
	return m.Of(id)
}

// Parent is the index of the namespace around another, which is not the first.
func (m *Map) Parent(ns int) int { return m.Namespaces[ns].Parent }

// Init is the first process of a namespace; 0 if it is not of the tree.
func (m *Map) Init(ns int) sdk.TaskID {
	if m == nil || ns >= len(m.Namespaces) {
		return 0
	}
	return m.Namespaces[ns].Init
}

// IsInit tells whether a process is the first one of its namespace, for which
// the kernel has rules of its own.
func (m *Map) IsInit(id sdk.TaskID) bool {
	return id != 0 && (m.Init(m.Of(id)) == id || m.FirnInit() && id == InitID)
}

// Depth tells how many namespaces a namespace is below the first one.
func (m *Map) Depth(ns int) int {
	depth := 0
	for ; ns > 0; ns = m.Parent(ns) {
		depth++
	}
	return depth
}

// Within tells whether a namespace is another one or somewhere inside it.
func (m *Map) Within(ns, outer int) bool {
	for ns > 0 && ns != outer {
		ns = m.Parent(ns)
	}
	return ns == outer
}

// Number is the number that a task, group or session has in a namespace, in
// which it must be visible: 0 if it is not.
func (m *Map) Number(id sdk.TaskID, ns int) int {
	depth := 0
	if ns > 0 {
		depth = m.Depth(ns)
	}
	if depth == 0 {
		return int(id)
	}
	if inner := m.Inner[id]; depth <= len(inner) {
		return int(inner[depth-1])
	}
	return 0
}

// SetTID is what clone3(2) wants as set_tid for a new task: its numbers, that of
// the innermost namespace first.
func (m *Map) SetTID(id sdk.TaskID) []uint32 {
	var out []uint32
	if m != nil {
		inner := m.Inner[id]
		for i := range inner {
			out = append(out, inner[len(inner)-1-i])
		}
	}
	return append(out, uint32(id))
}

// New returns the map of a tree with a namespace of its own, whose first process
// is an init of Firn's, from what the image says of a tree that had none.
func New(m *Map) *Map {
	n := Map{Namespaces: []Namespace{{}}}
	if m != nil {
		n = *m
	}
	n.Own, n.Proc = true, true
	return &n
}
