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
	h := &heldFiles{resources: req.Resources, written: map[*file]bool{}, holders: map[*file]sdk.HeldFile{}}
	for _, sp := range spaces {
		h.add(sp)
	}
	var list []sdk.HeldFile
	for _, f := range h.order {
		fd, err := openNameless(f, h.written[f])
		if !req.Frozen && errors.Is(err, unix.ENOENT) {
			continue // was unmapped meanwhile
		}
		if err != nil {
			return list, fmt.Errorf("open %s: %w", f.path, err)
		}
		f.held = fd
		held := h.holders[f]
		held.FD = fd
		list = append(list, held)
	}
	return list, nil
}

// heldFiles collects files without a name.
type heldFiles struct {
	resources []sdk.Resource
	objects   map[mappingKey]uint64 // of the resources; made when there is need
	order     []*file
	written   map[*file]bool // may be written to through a mapping
	holders   map[*file]sdk.HeldFile
}

// mappingKey is a mapping of a process, by where it starts.
type mappingKey struct {
	task  sdk.TaskID
	start uint64
}

// object is that of a mapping.
func (h *heldFiles) object(sp *space, v *vma) uint64 {
	if h.objects == nil {
		h.objects = map[mappingKey]uint64{}
		for i := range h.resources {
			if r := &h.resources[i]; r.VMA != nil {
				h.objects[mappingKey{r.Task, r.VMA.Start}] = r.Object
			}
		}
	}
	return h.objects[mappingKey{sp.task, v.Start}]
}

// add takes the files of a process.
func (h *heldFiles) add(sp *space) {
	for i := range sp.vmas {
		v := &sp.vmas[i]
		if v.file == nil || v.file.link == "" {
			continue
		}
		h.note(v.file, sp, v, v.subject())
		if v.Shared() && v.Flags.Has(procfs.VMMayWrite) {
			h.written[v.file] = true
		}
	}
	if sp.exe != nil && sp.exe.link != "" && len(sp.vmas) > 0 {
		h.note(sp.exe, sp, &sp.vmas[0], "executable")
	}
}

func (h *heldFiles) note(f *file, sp *space, v *vma, subject string) {
	if _, ok := h.holders[f]; !ok {
		h.holders[f] = sdk.HeldFile{Holder: h.object(sp, v), Subject: subject}
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
	for _, h := range d.held {
		if h.FD == f.held {
			return h.Object, nil
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
