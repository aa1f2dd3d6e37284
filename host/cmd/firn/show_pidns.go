package main

import (
	"fmt"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/sdk"
)

// shownPIDs is one PID namespace of a tree. All numbers of the image are those
// of the first one.
type shownPIDs struct {
	// Own is false for the first one if the tree shares that with others.
	Own bool `json:"own"`
	// Proc says that the tree has its own /proc.
	Proc bool `json:"own_proc"`
	// Parent is the index of the namespace around it.
	Parent int `json:"parent"`
	// Init is the first process; 0 if it is not of the tree.
	Init  int `json:"init"`
	index int
}

func shownPIDNamespaces(m *pidns.Map) []shownPIDs {
	if m == nil {
		return nil
	}
	var out []shownPIDs
	for i, ns := range m.Namespaces {
		out = append(out, shownPIDs{
			Own: i > 0 || m.Own, Proc: i == 0 && m.Proc, Parent: ns.Parent, Init: int(ns.Init), index: i,
		})
	}
	return out
}

func (s *shownPIDs) String() string {
	text := "its own"
	switch {
	case !s.Own:
		return "that of the restore"
	case s.index > 0:
		text = fmt.Sprintf("inside %d", s.Parent)
	}
	if s.Proc {
		text += ", with its own /proc"
	}
	if s.Init == 0 {
		return text + ", first process of firn's"
	}
	return text + fmt.Sprintf(", first process %d", s.Init)
}

func innerPIDs(m *pidns.Map, id sdk.TaskID) []int {
	if m == nil {
		return nil
	}
	return ints(m.Inner[id])
}

// numbers are those of a process: the first, and those further inside.
func (p *shownProcess) numbers() string {
	if len(p.Inner) == 0 {
		return fmt.Sprint(p.PID)
	}
	return fmt.Sprintf("%d %v", p.PID, p.Inner)
}
