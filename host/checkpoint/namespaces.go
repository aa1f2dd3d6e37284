package checkpoint

import (
	"github.com/firn-cr/firn/host/pidns/survey"
	"github.com/firn-cr/firn/host/userns"
	"github.com/firn-cr/firn/sdk"
)

// carried tells the enumeration what of the namespaces the host carries itself.
type carried struct {
	pids  *survey.View
	users *userns.View
}

// Carries implements [resource.Host].
func (c carried) Carries(name string, ino uint64) bool {
	if name == "user" {
		return c.users.Carries(ino)
	}
	return c.pids.Carries(name, ino)
}

// Owner implements [resource.Host].
func (c carried) Owner(pid int, name string) (n int, ok bool, err error) {
	if name == "user" {
		return 0, true, nil // nobody's: it will be refused as what it is
	}
	return c.users.Owner(pid, name)
}

// Mount implements [resource.Host].
func (c carried) Mount(ns uint64, id int) int { return c.pids.Mount(ns, id) }

// userFindings say what of the user namespaces cannot be carried.
func (p *plan) userFindings() (out []sdk.Finding) {
	block := func(id sdk.TaskID, subject, text, help string) {
		out = append(out, sdk.Finding{Level: sdk.LevelBlock, Task: id, Subject: subject, Text: text, Help: help})
	}
	for n := range p.users.Namespaces {
		if text := p.users.WhyNot(n + 1); text != "" {
			block(p.tree.Root, "user namespace", text, "")
		}
	}
	for i := range p.tree.Processes {
		q := &p.tree.Processes[i]
		if p.pids.Map != nil && !q.Zombie {
			owner, ok, err := p.users.Owner(q.PID, "pid")
			if err == nil && (!ok || owner != 0) {
				block(q.ID, "pid namespace", "belongs to a user namespace of the tree",
					"make it outside of the user namespace: unshare(1) --pid first, then --user")
			}
		}
		if q.UserNamespace == 0 {
			continue
		}
		if len(q.Threads) > 1 && p.pids.Map.Nested() && p.pids.Map.Of(q.ID) != 0 {
			block(q.ID, "user namespace", "the process has threads, and is in a nested PID namespace: "+
				"in a user namespace it may not give threads more than one number", "")
		}
		if p.pids.Map.ChildrenOf(q.ID) != p.pids.Map.Of(q.ID) {
			block(q.ID, "pid_for_children namespace", "its children are born in another PID namespace than its own, "+
				"for which it has no right in its user namespace", "")
		}
	}
	return out
}
