package uts

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/uts/utspb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/tape"
)

// RestoreNamespaces implements [sdk.NamespaceRestorer].
func (*plugin) RestoreNamespaces(ctx context.Context, req *sdk.RestoreRequest) error {
	return namespace.Restore(ctx, req, unix.CLONE_NEWUTS, func(r *sdk.Resource) (*tape.Tape, error) {
		ns, err := load(req.Records, r.Object)
		if err != nil {
			return nil, err
		}
		return create(ns), nil
	})
}

// load reads the record of a namespace.
func load(records sdk.Records, object uint64) (*utspb.Namespace, error) {
	for r, err := range records.Object(object) {
		if err != nil {
			return nil, err
		}
		if r.Kind != kindNamespace {
			continue
		}
		ns := &utspb.Namespace{}
		if err := r.Decode(ns); err != nil {
			return nil, err
		}
		return ns, valid(ns)
	}
	return nil, fmt.Errorf("no record of object %d: %w", object, sdk.ErrCorrupt)
}
