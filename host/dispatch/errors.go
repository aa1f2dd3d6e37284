package dispatch

import (
	"errors"
	"fmt"
	"time"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

// ErrDied is the error of a phase during which the plugin's process ended.
var ErrDied = errors.New("plugin process died")

// Error is an error of one plugin.
type Error struct {
	// Plugin is the plugin's name.
	Plugin string
	// Doing is the phase, or what else the plugin was asked to do.
	Doing string
	Err   error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("plugin %s: %s: %v", e.Plugin, e.Doing, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// unusable makes an error failure.ErrPlugin without changing its text.
type unusable struct{ error }

func (e *unusable) Unwrap() error { return e.error }

func (e *unusable) Is(target error) bool { return target == failure.ErrPlugin }

// overdueError says that a plugin did not end a phase in the time that the phase
// may take. The time of the whole checkpoint or restore is another matter: a
// plugin that was at work when that ended has done nothing wrong, and is asked
// to clean up.
type overdueError struct{ limit time.Duration }

func (e *overdueError) Error() string { return fmt.Sprintf("%v after %v", sdk.ErrTimeout, e.limit) }

func (e *overdueError) Unwrap() error { return sdk.ErrTimeout }

// diedError tells how a plugin's process ended. It is [ErrDied].
type diedError struct {
	state string // "signal: killed"
	last  string // headline of a crash, if it wrote one
}

func (e *diedError) Error() string {
	if e.last != "" {
		return fmt.Sprintf("%v (%s: %s)", ErrDied, e.state, e.last)
	}
	return fmt.Sprintf("%v (%s)", ErrDied, e.state)
}

func (e *diedError) Is(target error) bool { return target == ErrDied }
