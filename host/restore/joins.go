package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/image"
	nsplugin "github.com/firn-cr/firn/sdk/namespace"
)

// checkJoins makes sure that every namespace which the tree is to enter is there,
// and that it takes the place of one.
func (r *flow) checkJoins() error {
	values := r.cfg.Options[nsplugin.JoinOption]
	if values == "" {
		return nil
	}
	seen := map[string]bool{}
	for _, v := range strings.Split(values, "\n") {
		name, path, ok := strings.Cut(v, ":")
		switch {
		case !ok || name == "" || !filepath.IsAbs(path):
			return fmt.Errorf("--%s %q: want NAME:PATH, like net:/run/netns/blue: %w", nsplugin.JoinOption, v, failure.ErrUsage)
		case seen[name]:
			return fmt.Errorf("--%s: %s is given twice: %w", nsplugin.JoinOption, name, failure.ErrUsage)
		}
		seen[name] = true
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("--%s %q: %w: %w", nsplugin.JoinOption, v, err, failure.ErrUsage)
		}
		has := func(o image.Object) bool { return o.Resource.Namespace != nil && o.Resource.Namespace.Name == name }
		if !slices.ContainsFunc(r.host.Objects, has) {
			return fmt.Errorf("--%s %q: the tree has no %s namespace of its own: run firn in that one (nsenter): %w",
				nsplugin.JoinOption, v, name, failure.ErrUsage)
		}
	}
	return nil
}
