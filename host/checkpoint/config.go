package checkpoint

import (
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/firn-cr/firn/host/dispatch"
)

// Config says what to checkpoint and how.
type Config struct {
	// PID is the root of the tree.
	PID int
	// Image is the path of the image, or "-" for Stdout.
	Image  string
	Stdout io.Writer
	// LeaveRunning thaws the tree, LeaveStopped leaves it stopped by SIGSTOP;
	// without either it is ended once the image is safe.
	LeaveRunning, LeaveStopped bool
	// Live copies memory while the tree runs again; it implies LeaveRunning.
	Live bool
	// Deferred keeps what plugins emit in memory until after the thaw, up to
	// MemoryLimit bytes.
	Deferred    bool
	MemoryLimit int64
	// Parent is the path of an image whose pages are left out of this one; Dedup
	// leaves out pages that this one has already; Compression is a level of
	// zstd(1), 0 for none. What is saved waits for all that in memory, up to
	// MemoryLimit bytes.
	Parent      string
	Dedup       bool
	Compression int
	// NoSync leaves writing the image back to the kernel.
	NoSync bool
	// Timeout bounds everything from the start to the commit. Zero: no bound
	// but those of the phases.
	Timeout time.Duration
	// PluginDirs are searched for plugins.
	PluginDirs []string
	dispatch.Selection
	// Warm has plugins that were started already, see [WarmPlugins]; may be nil.
	Warm *dispatch.Warm
	// Options are the flags that plugins may look at.
	Options map[string]string
	// Version of the host, for the image.
	Version string
	Log     hclog.Logger
	// Progress is told the phase and how far it is; may be nil.
	Progress func(phase string, done, total int64)
}

// Result is what "firn checkpoint --json" prints.
type Result struct {
	Image       string `json:"image"`
	RootPID     int    `json:"root_pid"`
	Tasks       int    `json:"tasks"`
	Threads     int    `json:"threads"`
	Resources   int    `json:"resources"`
	BytesMemory int64  `json:"bytes_memory"`
	BytesImage  int64  `json:"bytes_image"`
	Mode        string `json:"mode"`
	// Parent is the image without which this one is of no use, Tracking how
	// what has changed since was found: "digests".
	Parent    string         `json:"parent,omitempty"`
	Tracking  string         `json:"tracking,omitempty"`
	FreezeMS  float64        `json:"freeze_ms"`
	FrozenMS  float64        `json:"frozen_ms"`
	CaptureMS float64        `json:"capture_ms"`
	WriteMS   float64        `json:"write_ms"`
	CommitMS  float64        `json:"commit_ms"`
	TotalMS   float64        `json:"total_ms"`
	Plugins   []PluginResult `json:"plugins"`
	// Notes are differences that a restore will show.
	Notes []string `json:"notes,omitempty"`
}

// PluginResult is what one plugin did.
type PluginResult struct {
	Name    string  `json:"name"`
	Version string  `json:"version"`
	DumpMS  float64 `json:"dump_ms"`
	Records int64   `json:"records"`
}
