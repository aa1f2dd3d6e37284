package mm

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Held implements [sdk.Holder]: mapped and executed files that have no name, a
// memfd for example. What they contain is saved with the descriptors that the tree
// has of them, if any, and so both show the same file afterwards.
func (p *plugin) Held(_ context.Context, req *sdk.CheckRequest) ([]sdk.HeldFile, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	spaces := p.running
	if req.Frozen {
		spaces = p.frozen
	}
	h := &heldFiles{written: map[*file]bool{}, holders: map[*file]sdk.HeldFile{}, fds: map[*file]int{}}
	for _, sp := range spaces {
		h.add(sp, req.Resources)
	}
	p.held = h.fds
	for _, f := range h.order {
		fd, err := openNameless(f, h.written[f])
		if !req.Frozen && errors.Is(err, unix.ENOENT) {
			continue // was unmapped meanwhile
		}
		if err != nil {
			return h.list, fmt.Errorf("open %s: %w", f.path, err)
		}
		held := h.holders[f]
		held.FD, h.fds[f] = fd, fd
		h.list = append(h.list, held)
	}
	return h.list, nil
}

// heldFiles collects files without a name.
type heldFiles struct {
	order   []*file
	written map[*file]bool // may be written to through a mapping
	holders map[*file]sdk.HeldFile
	fds     map[*file]int
	list    []sdk.HeldFile
}

// add takes the files of a process.
func (h *heldFiles) add(sp *space, resources []sdk.Resource) {
	var objects map[uint64]uint64 // of the mappings, by their starts
	object := func(start uint64) uint64 {
		if objects == nil {
			objects = map[uint64]uint64{}
			for i := range resources {
				if r := &resources[i]; r.VMA != nil && r.Task == sp.task {
					objects[r.VMA.Start] = r.Object
				}
			}
		}
		return objects[start]
	}
	for i := range sp.vmas {
		v := &sp.vmas[i]
		if v.file == nil || v.file.link == "" {
			continue
		}
		h.note(v.file, func() sdk.HeldFile { return sdk.HeldFile{Holder: object(v.Start), Subject: v.subject()} })
		if v.Shared() && v.Flags.Has(procfs.VMMayWrite) {
			h.written[v.file] = true
		}
	}
	if sp.exe != nil && sp.exe.link != "" && len(sp.vmas) > 0 {
		h.note(sp.exe, func() sdk.HeldFile { return sdk.HeldFile{Holder: object(sp.vmas[0].Start), Subject: "executable"} })
	}
}

func (h *heldFiles) note(f *file, holder func() sdk.HeldFile) {
	if _, ok := h.holders[f]; !ok {
		h.holders[f] = holder()
		h.order = append(h.order, f)
	}
}

// openNameless opens a file through what shows it.
func openNameless(f *file, write bool) (int, error) {
	mode := unix.O_RDONLY
	if write {
		mode = unix.O_RDWR
	}
	return unix.Open(f.link, mode|unix.O_CLOEXEC, 0)
}

// objectOf finds the object of a file without a name; 0 for other files.
func (d *dump) objectOf(f *file) (uint64, error) {
	if f.link == "" {
		return 0, nil
	}
	if fd, ok := d.heldFDs[f]; ok {
		for _, h := range d.held {
			if h.FD == fd {
				return h.Object, nil
			}
		}
	}
	return 0, fmt.Errorf("%s: nobody carries it: %w", f.path, sdk.ErrUnsupported)
}

// heldImage is a file without a name that was made again, in this process.
type heldImage struct {
	read, write int // descriptors; write is -1 if nobody may
}

// fetchHeld gets the files without a name.
func fetchHeld(req *sdk.RestoreRequest, img *image) (map[uint32]heldImage, error) {
	out := map[uint32]heldImage{}
	for id, f := range img.files {
		if f.Object == 0 {
			continue
		}
		fd, err := req.Fetch(f.Object)
		if err != nil {
			return out, fmt.Errorf("%s: %w", f.Path, err)
		}
		h := heldImage{read: fd, write: -1}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if err == nil && flags&unix.O_ACCMODE == unix.O_RDWR {
			// A mapping that nobody may write to comes from a description that
			// cannot: the file may be sealed against it later.
			h.write = fd
			h.read, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		out[id] = h
		if err != nil {
			return out, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return out, nil
}

func closeHeld(held map[uint32]heldImage) {
	for _, h := range held {
		unix.Close(h.read)
		if h.write >= 0 {
			unix.Close(h.write)
		}
	}
}

// fd is the descriptor from which a mapping is made.
func (h heldImage) fd(write bool) int {
	if write && h.write >= 0 {
		return h.write
	}
	return h.read
}
