package dispatch

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// debugTime bounds everything that a plugin under a debugger does, and the start of
// all plugins with it.
const debugTime = 24 * time.Hour

// Debug has plugins stop when they are started, so that a debugger can be attached
// before they do anything, and takes all deadlines from them. Names that nobody has
// are an error.
func Debug(bins []Binary, names []string) error {
	return mark(bins, names, "debug", func(b *Binary) { b.Debug = true })
}

// debugged tells whether one of some plugins is to be debugged.
func debugged(bins []Binary) bool {
	return slices.ContainsFunc(bins, func(b Binary) bool { return b.Debug })
}

// awaitDebugger stops the process of a plugin and says what to do. A debugger that
// attaches to it lets it go on, and so does SIGCONT.
func (p *Plugin) awaitDebugger(proc *process) error {
	if err := unix.Kill(proc.proc.Pid, unix.SIGSTOP); err != nil {
		return fmt.Errorf("stop for a debugger: %w", err)
	}
	p.log.Warn(fmt.Sprintf("process %d waits for a debugger: attach one (dlv attach %d), then kill -CONT %d",
		proc.proc.Pid, proc.proc.Pid, proc.proc.Pid))
	return nil
}
