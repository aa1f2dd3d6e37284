package files

import (
	"context"
	"fmt"

	"github.com/firn-cr/firn/sdk"
)

// Seal implements [sdk.Sealer]: it sets the watches of inotify and fanotify.
// That comes last, so that the program is not told what the restore itself
// does to its files.
func (p *plugin) Seal(_ context.Context, req *sdk.RestoreRequest) error {
	im, err := readImage(req.Records)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range im.inotifies {
		fd, err := p.madeFD(n.object)
		if err == nil {
			err = p.watch(fd, n.msg)
		}
		if err != nil {
			return fmt.Errorf("inotify of object %d: %w", n.object, err)
		}
	}
	for _, g := range im.fanotifies {
		fd, err := p.madeFD(g.object)
		if err == nil {
			err = p.mark(fd, g.msg)
		}
		if err != nil {
			return fmt.Errorf("fanotify of object %d: %w", g.object, err)
		}
	}
	return nil
}

// madeFD is the descriptor of an object that was restored.
func (p *plugin) madeFD(object uint64) (int, error) {
	fd, ok := p.made[object]
	if !ok {
		return -1, fmt.Errorf("it was not restored: %w", sdk.ErrCorrupt)
	}
	return fd, nil
}
