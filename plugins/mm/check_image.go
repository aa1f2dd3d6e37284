package mm

import (
	"context"
	"errors"
	"fmt"

	"github.com/firn-cr/firn/sdk"
)

// CheckImage implements [sdk.ImageChecker]: one finding for each file that is
// not the one of the checkpoint, and one for a vdso that this kernel lacks.
func (p *plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	p.forget()
	img, err := readImage(req.Records)
	if err != nil {
		return nil, err
	}
	for i := range req.Tree.Processes {
		proc := &req.Tree.Processes[i]
		if !proc.Zombie && img.spaces[proc.ID] == nil {
			return nil, fmt.Errorf("memory of task %d: %w", proc.ID, corrupt("no record of the address space"))
		}
	}
	var found []sdk.Finding
	for id := uint32(1); int(id) <= len(img.files); id++ {
		f := img.files[id]
		if f == nil {
			return nil, corrupt("file %d is missing", id)
		}
		if f.Object != 0 {
			continue // comes with the image
		}
		diff, note := p.files.difference(f)
		switch {
		case diff != "":
			found = append(found, sdk.Finding{Level: sdk.LevelBlock, Subject: "file " + f.Path,
				Text: fmt.Sprintf("%v: %s", sdk.ErrChanged, diff), Help: "put the file of the checkpoint back"})
		case note != "":
			found = append(found, sdk.Finding{Level: sdk.LevelNote, Subject: "file " + f.Path, Text: note})
		}
	}
	found = append(found, img.checkVdsos()...)
	p.mu.Lock()
	p.image = img
	p.mu.Unlock()
	return found, nil
}

// checkVdsos reports the first process whose vdso this kernel cannot give: the
// others have the same one.
func (img *image) checkVdsos() []sdk.Finding {
	for _, sp := range img.order {
		err := sameVdso(sp.record.Vdso)
		if err == nil {
			continue
		}
		help := ""
		if errors.Is(err, sdk.ErrUnsupported) {
			help = "restore on the kernel of the checkpoint"
		}
		return []sdk.Finding{{Level: sdk.LevelBlock, Task: sp.task, Subject: "vdso", Text: err.Error(), Help: help}}
	}
	return nil
}
