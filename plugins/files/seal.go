package files

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

// Seal implements [sdk.Sealer]: it gives carried files their names, seals memory
// files that others may have had to map before, and sets the watches of
// inotify and fanotify. Those come last, so that the program is not told what
// the restore itself does to its files.
func (p *plugin) Seal(_ context.Context, req *sdk.RestoreRequest) error {
	im, err := readImage(req.Records)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.carried {
		if err := p.traces.change(c.place); err != nil {
			return err
		}
	}
	for _, object := range im.ghostOrder {
		if err := p.seal(object, im.ghosts[object].msg); err != nil {
			return fmt.Errorf("memory file %s: %w", im.ghosts[object].msg.GetPath(), err)
		}
	}
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

// sealsLate tells whether a memory file is sealed at the end. Those who write to
// it through mappings must have them before F_SEAL_FUTURE_WRITE; with F_SEAL_WRITE
// nobody can have one. All others are sealed at once: what is executed nobody
// could open for writing, which sealing needs.
func sealsLate(g *filespb.Ghost) bool {
	return g.GetSeals()&(unix.F_SEAL_FUTURE_WRITE|unix.F_SEAL_WRITE) == unix.F_SEAL_FUTURE_WRITE
}

// addSeals seals a memory file, of which fd can write.
func addSeals(fd int, g *filespb.Ghost) error {
	if !g.GetMemory() || g.GetSeals() == 0 {
		return nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, int(g.GetSeals())); err != nil {
		return fmt.Errorf("seal with %#x: %w", g.GetSeals(), err)
	}
	return nil
}

// seal seals a memory file that waits for it.
func (p *plugin) seal(object uint64, g *filespb.Ghost) error {
	if !g.GetMemory() || !sealsLate(g) {
		return nil
	}
	made, err := p.madeFD(object)
	if err != nil {
		return err
	}
	fd, err := reopenFD(made, unix.O_RDWR)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	return addSeals(fd, g)
}

// madeFD is the descriptor of an object that was restored.
func (p *plugin) madeFD(object uint64) (int, error) {
	fd, ok := p.made[object]
	if !ok {
		return -1, fmt.Errorf("it was not restored: %w", sdk.ErrCorrupt)
	}
	return fd, nil
}
