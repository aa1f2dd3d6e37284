package image

import (
	"errors"
	"fmt"

	"github.com/firn-cr/firn/sdk"
)

// Errors of this package.
var (
	// ErrClosed: the writer was committed or aborted.
	ErrClosed = errors.New("image writer is closed")
	// ErrNoStream: the image has no records of the plugin.
	ErrNoStream = errors.New("no such stream in the image")
)

// CorruptError says where an image is damaged. It is [sdk.ErrCorrupt].
type CorruptError struct {
	// Path is the name of the image.
	Path string
	// Section is the part of the file: "header", "manifest", "stream",
	// "records", "bulk", "padding", "index", "trailer".
	Section string
	// Plugin owns the section; empty for those that belong to the image.
	Plugin string
	// Offset is the position in the file that was looked at.
	Offset int64
	// Err is what is wrong.
	Err error
}

// Error implements error.
func (e *CorruptError) Error() string {
	plugin := ""
	if e.Plugin != "" {
		plugin = " of plugin " + e.Plugin
	}
	return fmt.Sprintf("image %s: section %s%s at offset %d: %v", e.Path, e.Section, plugin, e.Offset, e.Err)
}

// Is makes errors.Is(e, sdk.ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == sdk.ErrCorrupt }

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

var (
	errChecksum  = errors.New("checksum mismatch")
	errMagic     = errors.New("wrong magic number")
	errTruncated = errors.New("truncated")
	errNotZero   = errors.New("padding is not zero")
)
