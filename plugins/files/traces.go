package files

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// traces are the names that a checkpoint or restore has put into file systems:
// they must go if it fails. An abort may come while the phase that it ends is
// still at work; after it nothing is left behind any more.
type traces struct {
	mu   sync.Mutex
	over bool
	undo []func() error
}

// begin allows traces again: a process has one session, but a test has several.
func (t *traces) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over, t.undo = false, nil
}

// leave makes a name, unless the session has been aborted. If create succeeds,
// undo is what takes the name away.
func (t *traces) leave(ctx context.Context, create, undo func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if t.over {
		return sdk.ErrAborted
	}
	if err := create(); err != nil {
		return err
	}
	t.undo = append(t.undo, undo)
	return nil
}

// change does what undo has to know of, unless the session has been aborted.
func (t *traces) change(do func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return sdk.ErrAborted
	}
	return do()
}

// remove takes all names away.
func (t *traces) remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	var errs []error
	for _, undo := range t.undo {
		errs = append(errs, undo())
	}
	t.undo = nil
	return errors.Join(errs...)
}

// unlink removes a name.
func unlink(name string) error {
	if err := unix.Unlink(name); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
