package restore

import (
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/firn-cr/firn/host/dispatch"
)

// PhaseResume is the phase in which the tree is let go.
const PhaseResume = "resume"

// Config says what to restore and how.
type Config struct {
	// Image is the path of the image.
	Image string
	// LeaveStopped leaves every process stopped by SIGSTOP.
	LeaveStopped bool
	// NewPIDNamespace restores the tree into a PID namespace of its own, also if
	// it had none. Where [OwnMounts] says so, the process must have a mount
	// namespace to itself ([EnterMountNamespace]).
	NewPIDNamespace bool
	// ShellJob has the tree join the session of this process, if its own was not
	// led by one of its processes.
	ShellJob bool
	// Timeout bounds everything up to the resume.
	Timeout time.Duration
	// PluginDirs are searched for plugins.
	PluginDirs []string
	// TrustedPlugins are names of plugins of third parties that get all rights of
	// the host.
	TrustedPlugins []string
	// DebuggedPlugins are names of plugins that wait for a debugger.
	DebuggedPlugins []string
	// Warm has plugins that were started already; may be nil.
	Warm *dispatch.Warm
	// Options are the flags that plugins may look at.
	Options map[string]string
	Log     hclog.Logger
	// Progress is told the phase and how far it is; may be nil. From [PhaseResume] on
	// the tree runs.
	Progress func(phase string, done, total int64)
}

// Result is what "firn restore --json" prints.
type Result struct {
	Image string `json:"image"`
	// RootPID and InitPID are numbers of the caller's PID namespace. InitPID is
	// the first process of the tree's own, if the root is not that itself.
	RootPID     int            `json:"root_pid"`
	InitPID     int            `json:"init_pid,omitempty"`
	Tasks       int            `json:"tasks"`
	Threads     int            `json:"threads"`
	BytesMemory int64          `json:"bytes_memory"`
	VerifyMS    float64        `json:"verify_ms"`
	SkeletonMS  float64        `json:"skeleton_ms"`
	RebuildMS   float64        `json:"rebuild_ms"`
	MemoryMS    float64        `json:"memory_ms"`
	ResumeMS    float64        `json:"resume_ms"`
	TotalMS     float64        `json:"total_ms"`
	Plugins     []PluginResult `json:"plugins"`
	// Notes are differences from the checkpointed tree.
	Notes []string `json:"notes,omitempty"`
}

// PluginResult is what one plugin did.
type PluginResult struct {
	Name      string  `json:"name"`
	Version   string  `json:"version"`
	RestoreMS float64 `json:"restore_ms"`
	Records   int64   `json:"records"`
}
