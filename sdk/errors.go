package sdk

import (
	"fmt"

	"github.com/firn-cr/firn/sdk/internal/sentinel"
)

// Errors that survive the way between plugin and host: errors.Is finds them on
// the other side.
var (
	// ErrUnsupported: the resource cannot be carried by this plugin.
	ErrUnsupported = sentinel.ErrUnsupported
	// ErrCorrupt: a record, image or message is damaged.
	ErrCorrupt = sentinel.ErrCorrupt
	// ErrVersion: a record, plugin or image has a version that is not known.
	ErrVersion = sentinel.ErrVersion
	// ErrTaskGone: a task ended that was expected to exist.
	ErrTaskGone = sentinel.ErrTaskGone
	// ErrNotPermitted: a right is missing.
	ErrNotPermitted = sentinel.ErrNotPermitted
	// ErrKernel: the kernel lacks a feature.
	ErrKernel = sentinel.ErrKernel
	// ErrTimeout: a deadline passed.
	ErrTimeout = sentinel.ErrTimeout
	// ErrInUse: an identity that must be restored is taken (a PID, a port).
	ErrInUse = sentinel.ErrInUse
	// ErrChanged: something outside the image is not what it was at the
	// checkpoint (a program file that was replaced).
	ErrChanged = sentinel.ErrChanged
	// ErrAborted: the session was aborted by the host.
	ErrAborted = sentinel.ErrAborted
)

// CorruptError says which record is damaged. It is [ErrCorrupt].
type CorruptError struct {
	What   string
	Kind   uint32
	Object uint64
	Err    error
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s kind %d of object %d: %v", e.What, e.Kind, e.Object, e.Err)
}

// Is makes errors.Is(e, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Err }
