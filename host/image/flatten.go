package image

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Flatten writes an image, as it is opened, to path: a file that needs no parent.
// The image should have been verified. Of p only compression and repetitions
// count.
func (i *Image) Flatten(ctx context.Context, path string, p Packing, opts CommitOptions) (size uint64, err error) {
	tmp, err := createTemp(path)
	if err != nil {
		return 0, fmt.Errorf("create image %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.discard())
		}
	}()
	p.Base = nil
	size = i.size
	var out io.Writer = tmp.f
	var pk *packer
	if !p.none() {
		if pk, err = newPacker(tmp.f, p); err != nil {
			return 0, err
		}
		out = pk.stages[0]
	}
	_, err = io.Copy(out, &untilDone{ctx, io.NewSectionReader(i.r, 0, int64(i.size))})
	if pk != nil {
		err = errors.Join(err, pk.Close())
		size = pk.written()
	}
	if err == nil && opts.Sync {
		err = syncFile(ctx, tmp.f)
	}
	if err != nil {
		return 0, fmt.Errorf("write image %s: %w", path, err)
	}
	return size, tmp.publish(opts.Sync)
}

// untilDone is a reader that ends with a context.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
