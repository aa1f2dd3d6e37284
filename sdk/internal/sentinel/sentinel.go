// Package sentinel holds the error values of package sdk, for the packages
// below it that cannot import it. Package sdk documents them.
package sentinel

import "errors"

// The errors that survive the way between plugin and host.
var (
	ErrUnsupported  = errors.New("not supported")
	ErrCorrupt      = errors.New("corrupt")
	ErrVersion      = errors.New("unknown version")
	ErrTaskGone     = errors.New("task is gone")
	ErrNotPermitted = errors.New("not permitted")
	ErrKernel       = errors.New("missing kernel feature")
	ErrTimeout      = errors.New("timed out")
	ErrInUse        = errors.New("in use")
	ErrChanged      = errors.New("changed since the checkpoint")
	ErrAborted      = errors.New("session aborted")
)
