package failure

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/firn-cr/firn/sdk"
)

func TestStatuses(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("while testing: %w", err) }
	tests := []struct {
		err  error
		want Status
	}{
		{nil, Done},
		{errors.New("anything"), Failed},
		{wrap(ErrUsage), Usage},
		{wrap(&BlockedError{}), Blocked},
		{wrap(&BlockedError{Restore: true}), Failed},
		{wrap(sdk.ErrUnsupported), Blocked},
		{wrap(ErrPlugin), Plugin},
		{wrap(sdk.ErrNotPermitted), Rights},
		{wrap(sdk.ErrKernel), Rights},
		{wrap(sdk.ErrTimeout), Timeout},
		{errors.Join(ErrPlugin, sdk.ErrTimeout), Timeout},
		{errors.Join(sdk.ErrTimeout, ErrDamaged), Damaged},
	}
	for _, tt := range tests {
		if got := Of(tt.err); got != tt.want {
			t.Errorf("%v: status %d, want %d", tt.err, got, tt.want)
		}
	}
}

// A context that ended explains what it made fail, but hides no damage.
func TestBecause(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	failed := errors.New("phase failed")
	if got := Because(ctx, failed); !errors.Is(got, failed) {
		t.Errorf("before the end: %v", got)
	}
	why := errors.New("why")
	cancel(why)
	if got := Because(ctx, failed); !errors.Is(got, why) || errors.Is(got, failed) {
		t.Errorf("after the end: %v", got)
	}
	if got := Because(ctx, nil); got != nil {
		t.Errorf("without an error: %v", got)
	}
	if got := Because(ctx, errors.Join(failed, ErrDamaged)); !errors.Is(got, ErrDamaged) || !errors.Is(got, why) {
		t.Errorf("with damage: %v", got)
	}
}
