package pidns

import (
	"errors"
	"fmt"
	"slices"

	"github.com/firn-cr/firn/host/image/imagepb"
	"github.com/firn-cr/firn/sdk"
)

// Fill adds the namespaces to the record of a tree, whose processes it has.
func (m *Map) Fill(t *imagepb.HostTree) {
	if m == nil {
		return
	}
	t.OwnPidNamespace, t.OwnProc = m.Own, m.Proc
	for _, ns := range m.Namespaces {
		t.PidNamespaces = append(t.PidNamespaces, &imagepb.HostPIDNamespace{Parent: uint32(ns.Parent), Init: uint32(ns.Init)})
	}
	for _, p := range t.Processes {
		id := sdk.TaskID(p.Id)
		p.PidNamespace = uint32(m.In[id])
		switch ns, other := m.Children[id]; {
		case other && ns == NotYet:
			p.ChildrenInNewNamespace = true
		case other:
			p.ChildrenNamespace = uint32(ns) + 1
		}
	}
	for id, inner := range m.Inner {
		t.Numbers = append(t.Numbers, &imagepb.HostNumbers{Id: uint32(id), Inner: inner})
	}
	slices.SortFunc(t.Numbers, func(a, b *imagepb.HostNumbers) int { return int(a.Id) - int(b.Id) })
}

// maxDepth is how deep PID namespaces can be nested (MAX_PID_NS_LEVEL).
const maxDepth = 32

// FromImage reads the namespaces from the record of a tree and checks that they
// agree with its processes. It returns nil for a tree that has none of its own.
func FromImage(t *imagepb.HostTree) (*Map, error) {
	m := &Map{
		Own: t.OwnPidNamespace, Proc: t.OwnProc,
		In: map[sdk.TaskID]int{}, Children: map[sdk.TaskID]int{}, Inner: map[sdk.TaskID][]uint32{},
	}
	for i, ns := range t.PidNamespaces {
		if int(ns.Parent) >= max(i, 1) {
			return nil, fmt.Errorf("PID namespace %d lies in %d", i, ns.Parent)
		}
		m.Namespaces = append(m.Namespaces, Namespace{Parent: int(ns.Parent), Init: sdk.TaskID(ns.Init)})
		if m.Depth(i) >= maxDepth {
			return nil, fmt.Errorf("PID namespace %d is nested more than %d levels deep", i, maxDepth)
		}
	}
	for _, p := range t.Processes {
		if err := m.addProcess(p); err != nil {
			return nil, err
		}
	}
	for _, n := range t.Numbers {
		if _, twice := m.Inner[sdk.TaskID(n.Id)]; twice || n.Id == 0 || len(n.Inner) == 0 || len(n.Inner) > maxDepth ||
			slices.Contains(n.Inner, 0) {
			return nil, fmt.Errorf("the further numbers of %d are %v, or there twice", n.Id, n.Inner)
		}
		m.Inner[sdk.TaskID(n.Id)] = n.Inner
	}
	if len(m.Namespaces) == 0 {
		if m.Own || m.Proc || len(m.Inner)+len(m.In)+len(m.Children) > 0 {
			return nil, errors.New("the tree has no PID namespace, but refers to one")
		}
		return nil, nil
	}
	return m, m.check(t)
}

func (m *Map) addProcess(p *imagepb.HostProcess) error {
	id := sdk.TaskID(p.Id)
	known := uint32(max(1, len(m.Namespaces)))
	if p.PidNamespace >= known || p.ChildrenNamespace > known {
		return fmt.Errorf("process %d is in PID namespace %d of %d", p.Id, max(p.PidNamespace, p.ChildrenNamespace), known)
	}
	if p.PidNamespace > 0 {
		m.In[id] = int(p.PidNamespace)
	}
	switch {
	case p.ChildrenInNewNamespace:
		m.Children[id] = NotYet
	case p.ChildrenNamespace > 0:
		m.Children[id] = int(p.ChildrenNamespace) - 1
	}
	return nil
}

// check compares the namespaces with the processes.
func (m *Map) check(t *imagepb.HostTree) error {
	if m.Proc && !m.Own {
		return errors.New("the tree has its own /proc, but no PID namespace")
	}
	if root := t.Processes[0]; root.PidNamespace != 0 || m.Namespaces[0].Init != 0 && (!m.Own || root.Id != uint32(InitID) || m.Namespaces[0].Init != InitID) {
		return errors.New("the root is not in the first PID namespace, or not its first process")
	}
	inits := make([]bool, len(m.Namespaces))
	seen := map[slot]bool{}
	for _, p := range t.Processes {
		id, ns := sdk.TaskID(p.Id), int(p.PidNamespace)
		if err := m.checkNumbers(p, ns, seen); err != nil {
			return err
		}
		if p.Parent != 0 && !m.Within(ns, m.Of(sdk.TaskID(p.Parent))) {
			return fmt.Errorf("process %d is not in the PID namespace of its parent, nor inside it", id)
		}
		if to := m.ChildrenOf(id); to != NotYet && !m.Within(to, ns) {
			return fmt.Errorf("children of process %d are born outside its PID namespace", id)
		}
		if m.Init(ns) == id {
			inits[ns] = true
			if m.Number(id, ns) != int(InitID) {
				return fmt.Errorf("the first process of PID namespace %d has number %d", ns, m.Number(id, ns))
			}
		}
	}
	for ns := range inits {
		if !inits[ns] && (ns > 0 || m.Namespaces[0].Init != 0) {
			return fmt.Errorf("PID namespace %d has no first process", ns)
		}
	}
	return nil
}

// slot is one number of one namespace.
type slot struct{ ns, number int }

// checkNumbers makes sure that every task of a process has a number in each
// namespace that it is in, which no other task has.
func (m *Map) checkNumbers(p *imagepb.HostProcess, ns int, seen map[slot]bool) error {
	tasks := p.Threads
	if !slices.Contains(tasks, p.Id) {
		tasks = append([]uint32{p.Id}, tasks...)
	}
	for _, t := range tasks {
		id := sdk.TaskID(t)
		if len(m.Inner[id]) != m.Depth(ns) {
			return fmt.Errorf("task %d has %d numbers below the first PID namespace, want %d", t, len(m.Inner[id]), m.Depth(ns))
		}
		for at := ns; at > 0; at = m.Parent(at) {
			s := slot{at, m.Number(id, at)}
			if seen[s] {
				return fmt.Errorf("number %d of PID namespace %d is there twice", s.number, at)
			}
			seen[s] = true
		}
	}
	return nil
}
