package checkpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/firn-cr/firn/host/image"
)

// readParent looks at the pages of the parent image, while the tree runs. One that
// is damaged, or of another tree, is refused: it would be of no use.
func (f *flow) readParent(ctx context.Context) (err error) {
	if f.cfg.Parent == "" {
		return nil
	}
	f.progress("parent")
	img, err := image.Glance(f.cfg.Parent)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	if root := img.Manifest().RootPid; root != uint32(f.plan.tree.Root) {
		return fmt.Errorf("it is of another tree, of process %d: %w", root, image.ErrParent)
	}
	if err := img.Verify(ctx); err != nil {
		return err
	}
	if f.base, err = image.NewBase(img, f.cfg.Image); err != nil {
		return err
	}
	f.res.Parent, f.res.Tracking = f.cfg.Parent, "digests"
	return nil
}
