package image

import (
	"fmt"

	"github.com/firn-cr/firn/host/image/imagepb"
)

// maxUserNamespaces is how deep they nest (create_user_ns in
// kernel/user_namespace.c), and maxIDRanges how many lines a map has
// (UID_GID_MAP_MAX_EXTENTS in linux/user_namespace.h).
const (
	maxUserNamespaces = 32
	maxIDRanges       = 340
)

// checkUserNamespaces checks that every reference leads to a user namespace of
// the tree, and that none lies in itself.
func checkUserNamespaces(r *HostRecords) error {
	spaces := r.Tree.UserNamespaces
	depth := make([]int, len(spaces)+1)
	for i, ns := range spaces {
		if int(ns.Parent) > i {
			return fmt.Errorf("user namespace %d lies in %d", i+1, ns.Parent)
		}
		if depth[i+1] = depth[ns.Parent] + 1; depth[i+1] > maxUserNamespaces {
			return fmt.Errorf("user namespace %d is nested more than %d levels deep", i+1, maxUserNamespaces)
		}
		for _, ids := range [][]*imagepb.HostIDRange{ns.Uids, ns.Gids} {
			if err := checkIDs(ids); err != nil {
				return fmt.Errorf("user namespace %d: %w", i+1, err)
			}
		}
	}
	for _, p := range r.Tree.Processes {
		if int(p.UserNamespace) > len(spaces) {
			return fmt.Errorf("process %d is in user namespace %d of %d", p.Id, p.UserNamespace, len(spaces))
		}
	}
	for _, o := range r.Objects {
		if n := o.Resource.Namespace; n != nil && n.Owner > len(spaces) {
			return fmt.Errorf("namespace %d belongs to user namespace %d of %d", o.Resource.Object, n.Owner, len(spaces))
		}
	}
	return nil
}

func checkIDs(ids []*imagepb.HostIDRange) error {
	if len(ids) > maxIDRanges {
		return fmt.Errorf("%d ranges of ids", len(ids))
	}
	for _, r := range ids {
		if r.Count == 0 || r.Inside+(r.Count-1) < r.Inside || r.Outside+(r.Count-1) < r.Outside {
			return fmt.Errorf("range of %d ids from %d and %d on", r.Count, r.Inside, r.Outside)
		}
	}
	return nil
}
