package dispatch

import (
	"context"
	"errors"
	"fmt"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
)

// Populate lets the plugin use its whole arena and gives memory to as much of it
// as the estimate says that it will use, so that nothing is touched for the first
// time while a tree stands still.
func (p *Plugin) Populate(_ context.Context, estimate sdk.PrepareResponse) error {
	p.consumer.Widen()
	n := uint64(estimate.BulkBytes) + uint64(estimate.RecordBytes)
	if err := p.consumer.Populate(n); err != nil && !errors.Is(err, hbuf.ErrClosed) {
		return &Error{Plugin: p.Name(), Doing: "prepare", Err: fmt.Errorf("populate the arena: %w", err)}
	}
	return nil
}
