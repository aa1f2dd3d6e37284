package task

import (
	"errors"
	"fmt"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// script is a tape that sets state, with a name for every call so that an
// error can say what could not be set, and with checks of what came back.
type script struct {
	tape.Tape
	names  []string
	checks []func(*tape.Outcome) error
}

// do appends a call that must succeed.
func (s *script) do(what string, nr int, args ...tape.Arg) tape.Result {
	s.names = append(s.names, what)
	return s.Call(nr, args...)
}

// try appends a call that may fail. Use check to see whether it did.
func (s *script) try(what string, nr int, args ...tape.Arg) tape.Result {
	s.names = append(s.names, what)
	return s.Try(nr, args...)
}

// check adds what is looked at after the run.
func (s *script) check(f func(*tape.Outcome) error) { s.checks = append(s.checks, f) }

// err tells what the run could not set.
func (s *script) err(task sdk.TaskID, o *tape.Outcome) error {
	if o.Err != nil {
		var call *tape.CallError
		if errors.As(o.Err, &call) && call.Index >= 0 && call.Index < len(s.names) {
			return fmt.Errorf("set %s of task %d: %w", s.names[call.Index], task, call.Errno)
		}
		return fmt.Errorf("set state of task %d: %w", task, o.Err)
	}
	for _, f := range s.checks {
		if err := f(o); err != nil {
			return fmt.Errorf("set state of task %d: %w", task, err)
		}
	}
	return nil
}
