package harness

// PluginResult is the part of one plugin in a result.
type PluginResult struct {
	Name    string  `json:"name"`
	Version string  `json:"version"`
	DumpMS  float64 `json:"dump_ms"`
	Records int64   `json:"records"`
}

// Checkpoint is what "firn checkpoint --json" prints.
type Checkpoint struct {
	Image       string         `json:"image"`
	RootPID     int            `json:"root_pid"`
	Tasks       int            `json:"tasks"`
	Threads     int            `json:"threads"`
	Resources   int            `json:"resources"`
	BytesMemory int64          `json:"bytes_memory"`
	BytesImage  int64          `json:"bytes_image"`
	Mode        string         `json:"mode"`
	FreezeMS    float64        `json:"freeze_ms"`
	FrozenMS    float64        `json:"frozen_ms"`
	CaptureMS   float64        `json:"capture_ms"`
	WriteMS     float64        `json:"write_ms"`
	CommitMS    float64        `json:"commit_ms"`
	TotalMS     float64        `json:"total_ms"`
	Plugins     []PluginResult `json:"plugins"`
	Notes       []string       `json:"notes"`
}

// Restore is what "firn restore --json" prints.
type Restore struct {
	Image       string         `json:"image"`
	RootPID     int            `json:"root_pid"`
	InitPID     int            `json:"init_pid"`
	Tasks       int            `json:"tasks"`
	Threads     int            `json:"threads"`
	BytesMemory int64          `json:"bytes_memory"`
	SkeletonMS  float64        `json:"skeleton_ms"`
	RebuildMS   float64        `json:"rebuild_ms"`
	MemoryMS    float64        `json:"memory_ms"`
	ResumeMS    float64        `json:"resume_ms"`
	TotalMS     float64        `json:"total_ms"`
	Plugins     []PluginResult `json:"plugins"`
	Notes       []string       `json:"notes"`
}
