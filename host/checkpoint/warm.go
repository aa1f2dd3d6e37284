package checkpoint

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/firn-cr/firn/host/dispatch"
)

// WarmPlugins starts all plugins in dirs for a checkpoint that comes later, in
// direct mode. They are the caller's, who closes what it returns.
func WarmPlugins(ctx context.Context, dirs []string, log hclog.Logger) (*dispatch.Warm, error) {
	bins, err := dispatch.Discover(dirs)
	if err != nil {
		log.Warn("plugins were refused", "error", err)
	}
	f := &flow{cfg: Config{Log: log}}
	opt := f.options()
	opt.Memory = dispatch.Recall(bins, "")
	return dispatch.NewWarm(ctx, bins, opt)
}
