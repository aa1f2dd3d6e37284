// Package failure has the errors that the two flows end with and the exit
// status that each of them means.
package failure

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/firn-cr/firn/sdk"
)

// Status is an exit status of the firn command.
type Status int

// The exit statuses. Their numbers are part of the command line's contract.
const (
	Done    Status = 0 // success
	Failed  Status = 1 // failed; the tree or the machine is as before
	Usage   Status = 2 // the command line is wrong
	Blocked Status = 3 // something is unclaimed or unsupported
	Plugin  Status = 4 // a plugin is missing, refused or of the wrong version
	Rights  Status = 5 // a right or a kernel feature is missing
	Timeout Status = 6 // timed out, rolled back
	Damaged Status = 7 // failed, and the tree is damaged
)

// Sentinels of the host that decide the exit status.
var (
	// ErrPlugin: a plugin is missing, refused or of the wrong version.
	ErrPlugin = errors.New("plugin not usable")
	// ErrDamaged: the checkpointed tree is not as it was.
	ErrDamaged = errors.New("THE TREE IS DAMAGED")
	// ErrUsage: the command line is wrong.
	ErrUsage = errors.New("usage")
)

// Line is a finding with the plugin that made it; the plugin is empty for the
// host's own.
type Line struct {
	Plugin string
	sdk.Finding
	// PID is the number of the task for the user, if it is not that of the
	// finding, by which the tree knows it. 0 if it is the same or not known.
	PID int
}

// BlockedError lists everything that keeps a tree from being checkpointed or
// an image from being restored.
type BlockedError struct {
	// Lines has blockers only.
	Lines []Line
	// Restore is true if it is about an image; nothing was created then.
	Restore bool
}

// Error implements error. Every blocker is on a line of its own.
func (e *BlockedError) Error() string {
	out := make([]string, len(e.Lines))
	for i, l := range e.Lines {
		out[i] = l.String()
	}
	return strings.Join(out, "\n")
}

// String formats the finding: plugin, resource, cause and help.
func (l Line) String() string {
	var parts []string
	if l.Plugin != "" {
		parts = append(parts, l.Plugin)
	}
	task := fmt.Sprintf("task %d", l.Task)
	if l.PID != 0 {
		task += fmt.Sprintf(" (%d here)", l.PID)
	}
	switch {
	case l.Subject != "" && l.Task != 0:
		parts = append(parts, l.Subject+" of "+task)
	case l.Subject != "":
		parts = append(parts, l.Subject)
	case l.Task != 0:
		parts = append(parts, task)
	}
	parts = append(parts, l.Text)
	if l.Help != "" {
		parts = append(parts, l.Help)
	}
	return strings.Join(parts, ": ")
}

// Blockers returns the lines that block.
func Blockers(lines []Line) []Line {
	var out []Line
	for _, l := range lines {
		if l.Level >= sdk.LevelFlag {
			out = append(out, l)
		}
	}
	return out
}

// Of maps an error to the exit status.
func Of(err error) Status {
	var blocked *BlockedError
	switch {
	case err == nil:
		return Done
	case errors.Is(err, ErrDamaged):
		return Damaged
	case errors.Is(err, ErrUsage):
		return Usage
	case errors.As(err, &blocked):
		if blocked.Restore {
			return Failed
		}
		return Blocked
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, sdk.ErrTimeout):
		return Timeout
	case errors.Is(err, ErrPlugin):
		return Plugin
	case errors.Is(err, sdk.ErrUnsupported):
		return Blocked
	case errors.Is(err, sdk.ErrNotPermitted), errors.Is(err, sdk.ErrKernel):
		return Rights
	}
	return Failed
}

// Because puts the reason for which a context ended in the place of what it
// made fail everywhere. Damage is never left out.
func Because(ctx context.Context, err error) error {
	switch {
	case err == nil || ctx.Err() == nil:
		return err
	case errors.Is(err, ErrDamaged):
		return errors.Join(context.Cause(ctx), err)
	}
	return context.Cause(ctx)
}
