package sdk

import "github.com/firn-cr/firn/sdk/procfs"

// UserNamespace is a user namespace of a tree (user_namespaces(7)). The host
// carries it; plugins want to know it because a process has lost the rights of
// the host when it has entered one, and because it owns other namespaces.
type UserNamespace struct {
	// Parent is the namespace around it, as [Process.UserNamespace].
	Parent int
	// Owner is the user who made it.
	Owner uint32
	// UIDs and GIDs are what of the host's users and groups has a number in it.
	UIDs, GIDs IDMap
	// SetgroupsDenied says that setgroups(2) is not allowed in it.
	SetgroupsDenied bool
	// Keeper is a process that lives in it during a restore, from the first phase
	// to the seal, with all rights in it and as its only task. It runs tapes, by
	// which a plugin makes what belongs to the namespace. It is 0 in a checkpoint.
	Keeper int
}

// IDRange gives the numbers from Inside on to those from Outside on, as the
// host counts them.
type IDRange = procfs.IDRange

// IDMap is the users or groups of a user namespace.
type IDMap []IDRange

// Inside is the number that a user or group of the host has in the namespace;
// ok is false if it has none.
func (m IDMap) Inside(id uint32) (inside uint32, ok bool) {
	for _, r := range m {
		if id >= r.Outside && id-r.Outside < r.Count {
			return r.Inside + id - r.Outside, true
		}
	}
	return 0, false
}
