package checkpoint

import (
	"context"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

// previewCheck refuses what can be seen to be impossible without freezing. A
// tree that runs looks odd at times: a process that was created a moment ago
// seems to be one from outside that shares everything, one that ends cannot be
// read. So what blocks must be found twice; the rest is left to the freeze.
func (f *flow) previewCheck(ctx context.Context) error {
	first, err := f.plan.check(ctx, checkPreview)
	if err != nil || len(failure.Blockers(first)) == 0 {
		return err
	}
	f.plan.set = nil
	if err := f.survey(ctx); err != nil {
		return err
	}
	second, err := f.plan.check(ctx, checkPreview)
	if err != nil {
		return err
	}
	type key struct {
		task          sdk.TaskID
		subject, text string
	}
	seen := map[key]bool{}
	for _, l := range first {
		seen[key{l.Task, l.Subject, l.Text}] = true
	}
	var both []failure.Line
	for _, l := range second {
		if seen[key{l.Task, l.Subject, l.Text}] {
			both = append(both, l)
		}
	}
	return blocked(both)
}
