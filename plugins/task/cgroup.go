package task

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/firn-cr/firn/plugins/task/internal/cgroups"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// manageCgroups is the flag of a restore that has missing groups made.
const manageCgroups = "manage-cgroups"

// Prepare implements [sdk.Preparer]: it reads what the cgroups of the tree are
// like, which would take long in the freeze.
func (p *plugin) Prepare(_ context.Context, req *sdk.PrepareRequest) (*sdk.PrepareResponse, error) {
	var groups []*taskpb.Cgroup
	for _, proc := range ownProcesses(req.Session) {
		list, err := cgroups.Read(proc.PID)
		if err != nil {
			continue // it has ended; of a frozen one it is an error
		}
		groups = append(groups, list...)
	}
	dirs, err := describeCgroups(groups, nil)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cgroups = dirs
	return &sdk.PrepareResponse{}, nil
}

// describeCgroups reads what groups and those above them are like, unless that
// is known.
func describeCgroups(groups []*taskpb.Cgroup, known map[cgroups.Key]*taskpb.CgroupDirectory) (map[cgroups.Key]*taskpb.CgroupDirectory, error) {
	mounts, err := procfs.Mounts(selfPID)
	if err != nil {
		return nil, err
	}
	dirs := map[cgroups.Key]*taskpb.CgroupDirectory{}
	for _, g := range groups {
		for _, above := range cgroups.Lineage(g) {
			key := cgroups.KeyOf(above)
			if _, ok := dirs[key]; ok {
				continue
			}
			d, ok := known[key]
			if !ok {
				if d, err = cgroups.Save(mounts, above); err != nil {
					return nil, fmt.Errorf("cgroup %s: %w", above.GetPath(), err)
				}
			}
			dirs[key] = d
		}
	}
	return dirs, nil
}

// threadCgroups reports a thread that is not in the cgroups of its main thread
// (cgroup v1, or a threaded group of v2).
func (x *examination) threadCgroups(i int) error {
	if i == 0 || x.cgroups == nil {
		return nil
	}
	own, err := procfs.Read(x.proc.Threads[i].TID, "cgroup")
	if err != nil {
		return err
	}
	if !bytes.Equal(x.cgroups, own) {
		x.block(i, "cgroup", "is not in the cgroups of its process", "move the thread to them")
	}
	return nil
}

// dumpCgroups emits what the groups of the tree are like, those above first.
func (p *plugin) dumpCgroups(ctx context.Context, records sdk.Emitter, processes []*processDump) error {
	p.mu.Lock()
	known := p.cgroups
	p.cgroups = nil
	p.mu.Unlock()
	var groups []*taskpb.Cgroup
	for _, d := range processes {
		groups = append(groups, d.rec.GetCgroups()...)
	}
	dirs, err := describeCgroups(groups, known)
	if err != nil {
		return err
	}
	for _, g := range groups {
		for _, above := range cgroups.Lineage(g) {
			key := cgroups.KeyOf(above)
			d := dirs[key]
			if d == nil {
				continue
			}
			dirs[key] = nil // once
			if err := records.Emit(ctx, kindCgroup, 0, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// loadCgroups reads the groups of an image, in the order in which they can be
// made.
func loadCgroups(records sdk.Records) ([]*taskpb.CgroupDirectory, error) {
	var dirs []*taskpb.CgroupDirectory
	for r, err := range records.Object(0) {
		if err != nil {
			return nil, err
		}
		if r.Kind != kindCgroup {
			continue
		}
		d := &taskpb.CgroupDirectory{}
		if err := r.Decode(d); err != nil {
			return nil, err
		}
		if err := cgroups.Valid(d); err != nil {
			return nil, err
		}
		dirs = append(dirs, d)
	}
	return dirs, nil
}

// checkCgroups tells which cgroups the process will not be in again.
func (c *imageCheck) checkCgroups() {
	for _, want := range c.p.rec.GetCgroups() {
		if cgroups.Has(c.cgroups, want) {
			continue
		}
		_, text := cgroups.Joinable(c.mounts, want)
		if text == "" {
			continue
		}
		subject, help := "cgroup "+want.GetControllers(), ""
		if dir, unmounted := cgroups.Dir(c.mounts, want); unmounted == "" && !exists(dir) {
			text = cgroups.CheckNew(c.mounts, want, c.groups)
			switch {
			case c.manage && text == "":
				continue
			case c.manage:
				c.find(sdk.LevelBlock, c.p.proc.ID, subject, fmt.Sprintf("%s is not there and cannot be made: %s", want.GetPath(), text), "")
				continue
			case text == "":
				help = "pass --" + manageCgroups + ", or create it"
			default:
				help = "create it"
			}
			text = "it is not there"
		}
		c.find(sdk.LevelNote, c.p.proc.ID, subject, fmt.Sprintf("will be the restorer's, not %s: %s", want.GetPath(), text), help)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// enterCgroups moves the processes into their groups, before they have memory:
// that is charged to the group in which it is made.
func (p *plugin) enterCgroups(req *sdk.RestoreRequest) error {
	saved, err := load(req)
	if err != nil || len(saved) == 0 {
		return err
	}
	mounts, err := procfs.Mounts(selfPID)
	if err != nil {
		return err
	}
	if req.Enabled(manageCgroups) {
		groups, err := loadCgroups(req.Records)
		if err != nil {
			return err
		}
		if err := p.made.Create(mounts, groups); err != nil {
			return err
		}
	}
	for _, s := range saved {
		if err := cgroups.Join(req.Log, mounts, s.proc.PID, s.rec.GetCgroups()); err != nil {
			return err
		}
	}
	return nil
}
