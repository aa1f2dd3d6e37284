package checkpoint

import (
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/probe"
	"github.com/firn-cr/firn/sdk"
)

// missingRight names the right without which no tree can be checkpointed, not
// even one of the caller's own; empty if it is there. A tracer may do all else
// to tasks of its own user, and CAP_SYS_PTRACE is asked for where there are
// others.
func missingRight() string {
	for _, c := range probe.Capabilities() {
		if (c.Name == "CAP_CHECKPOINT_RESTORE" || c.Name == "CAP_SYS_ADMIN") && c.Answer != probe.No {
			return ""
		}
	}
	return "CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN needed to share memory with tasks (/proc/PID/map_files)"
}

// rightFindings is missingRight for a report.
func (p *plan) rightFindings() []failure.Line {
	text := missingRight()
	if text == "" {
		return nil
	}
	return []failure.Line{{Finding: sdk.Finding{Level: sdk.LevelBlock, Task: p.tree.Root, Subject: "rights", Text: text,
		Help: "run firn with CAP_CHECKPOINT_RESTORE"}}}
}
