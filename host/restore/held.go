package restore

import (
	"fmt"
	"slices"

	"github.com/firn-cr/firn/sdk"
)

// anyHeld tells whether files of the image are held by something else than
// descriptors of tasks ([sdk.Holder]).
func (r *flow) anyHeld() bool {
	return slices.ContainsFunc(r.files, func(f sdk.Resource) bool { return len(f.File.Holders) > 0 })
}

// findHeld tells the plugins whose resources hold files where these are.
func (r *flow) findHeld() error {
	r.held = map[string][]sdk.HeldFile{}
	for _, f := range r.files {
		for _, h := range f.File.Holders {
			at, ok := r.provided[f.Object]
			if !ok {
				return fmt.Errorf("%s: no plugin provided object %d: %w", h.Subject, f.Object, sdk.ErrCorrupt)
			}
			r.held[h.Plugin] = append(r.held[h.Plugin], sdk.HeldFile{
				Holder: h.Object, Subject: h.Subject, Object: f.Object, PID: at.pid, FD: at.fd,
			})
		}
	}
	return nil
}
