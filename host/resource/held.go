package resource

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// Held is an open file description that a resource of a plugin holds
// ([sdk.Holder]), as a descriptor of the plugin's process.
type Held struct {
	Plugin string
	PID    int
	sdk.HeldFile
}

// Hold finds out which descriptions plugins have found. Those of which no task
// has a descriptor become resources, which are added to the set and returned; all
// get the holder, and every element of held its object.
func (s *Set) Hold(held []Held, tree *sdk.Tree, host Host) (added []sdk.Resource, err error) {
	if len(held) == 0 {
		return nil, nil
	}
	same, err := own()
	if err != nil {
		return nil, err
	}
	h := holding{
		set: s, tree: tree, mounts: &mounts{host: host}, namespace: same["mnt"],
		known: map[groupKey][]*sdk.Resource{}, tasks: map[uint64]sdk.TaskID{}, readers: map[int]*heldReader{},
	}
	defer h.close()
	for i := range s.Resources {
		h.know(&s.Resources[i])
	}
	var fresh []*sdk.Resource
	for i := range held {
		r, isNew, err := h.find(&held[i])
		if err != nil {
			return nil, fmt.Errorf("descriptor %d of plugin %s: %w", held[i].FD, held[i].Plugin, err)
		}
		held[i].Object = r.Object
		if isNew {
			fresh = append(fresh, r)
		}
	}
	for _, r := range fresh {
		added = append(added, *r)
	}
	s.Resources = append(s.Resources, added...)
	return added, nil
}

// holding is the search for what plugins have found.
type holding struct {
	set       *Set
	tree      *sdk.Tree
	mounts    *mounts
	namespace uint64 // the mount namespace of the plugins
	known     map[groupKey][]*sdk.Resource
	tasks     map[uint64]sdk.TaskID // of the resources, by object
	readers   map[int]*heldReader   // by the plugin's process
}

// heldReader reads descriptors of a plugin's process.
type heldReader struct {
	*fdReader
	dir *os.File
}

func (h *holding) close() {
	for _, r := range h.readers {
		r.close()
		r.dir.Close()
	}
}

func keyOf(f *sdk.File) groupKey { return groupKey{f.Dev, f.Ino, f.Flags, f.Offset, f.Link} }

func (h *holding) know(r *sdk.Resource) {
	h.tasks[r.Object] = r.Task
	if r.File != nil {
		k := keyOf(r.File)
		h.known[k] = append(h.known[k], r)
	}
}

// find returns the resource of a description, which may be a new one.
func (h *holding) find(held *Held) (_ *sdk.Resource, isNew bool, err error) {
	task, ok := h.tasks[held.Holder]
	if !ok {
		return nil, false, fmt.Errorf("object %d, which holds it, is not there: %w", held.Holder, sdk.ErrCorrupt)
	}
	f, err := h.read(held)
	if err != nil {
		return nil, false, err
	}
	at := sdk.FileHolder{Plugin: held.Plugin, Object: held.Holder, Subject: held.Subject, PID: held.PID, FD: held.FD}
	for _, r := range h.known[keyOf(f)] {
		pid, fd, ok := h.reach(r.File)
		if !ok {
			continue
		}
		c, err := kern.Kcmp(pid, held.PID, kern.KcmpFile, uint(fd), uint(held.FD))
		if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
			continue // was closed meanwhile: the tree runs
		}
		if err != nil {
			return nil, false, fmt.Errorf("compare with fd %d of task %d: kcmp: %w", fd, pid, err)
		}
		if c == 0 {
			r.File.Holders = append(r.File.Holders, at)
			return r, false, nil
		}
	}
	f.Holders = []sdk.FileHolder{at}
	h.set.last++
	r := &sdk.Resource{Kind: sdk.KindFile, Object: h.set.last, Task: task, File: f}
	h.know(r)
	return r, true, nil
}

// reach finds a process that has a description.
func (h *holding) reach(f *sdk.File) (pid, fd int, ok bool) {
	for _, ref := range f.Refs {
		if p := h.tree.Process(ref.Task); p != nil {
			return p.PID, ref.FD, true
		}
	}
	for _, held := range f.Holders {
		return held.PID, held.FD, true
	}
	return 0, 0, false
}

// read looks at a descriptor of a plugin's process.
func (h *holding) read(held *Held) (*sdk.File, error) {
	r := h.readers[held.PID]
	if r == nil {
		dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", held.PID))
		if err != nil {
			return nil, err
		}
		fds, err := newFDReader(int(dir.Fd()), held.PID)
		if err != nil {
			dir.Close()
			return nil, err
		}
		r = &heldReader{fds, dir}
		h.readers[held.PID] = r
	}
	f := openFD{fd: held.FD}
	if err := r.read(&f); err != nil {
		return nil, err
	}
	return &f.file, h.mounts.complete(held.PID, h.namespace, &f, int(r.dir.Fd()))
}
