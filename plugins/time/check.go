package time

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/firn-cr/firn/sdk"
)

// Check implements [sdk.Checker]: the tree's clocks must be those of one
// namespace.
func (*plugin) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	living := 0
	for i := range req.Tree.Processes {
		if !req.Tree.Processes[i].Zombie {
			living++
		}
	}
	var out []sdk.Finding
	inode := map[string]uint64{}
	for _, r := range req.Resources {
		ns := r.Namespace
		inode[ns.Name] = ns.Ino
		if len(ns.Tasks) != living {
			out = append(out, block(r, "is that of some processes of the tree only"))
		}
	}
	for _, r := range req.Resources {
		if r.Namespace.Name == "time_for_children" && inode["time"] != r.Namespace.Ino {
			out = append(out, block(r, "is to be entered by children only, so far"))
		}
	}
	return out, nil
}

func block(r sdk.Resource, text string) sdk.Finding {
	return sdk.Finding{
		Level: sdk.LevelBlock, Task: r.Task, Object: r.Object,
		Subject: r.Namespace.Name + " namespace", Text: fmt.Sprintf("time:[%d] %s", r.Namespace.Ino, text),
	}
}

// CheckImage implements [sdk.ImageChecker].
func (*plugin) CheckImage(_ context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	if _, ok, err := load(req.Records); err != nil || !ok || req.Enabled(hostClocks) {
		return nil, err
	}
	if _, err := os.Stat("/proc/self/timens_offsets"); errors.Is(err, os.ErrNotExist) {
		return []sdk.Finding{{
			Level: sdk.LevelFlag, Subject: "clocks",
			Text: "this kernel has no time namespaces: the monotonic clocks would jump",
			Help: "pass --" + hostClocks + " if the program can live with that",
		}}, nil
	}
	return nil, nil
}
