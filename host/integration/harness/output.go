package harness

import (
	"bytes"
	"fmt"
	"os/exec"
	"time"
)

// Begin starts a command that runs beside the test. Its own Wait would compete with
// the reaper of orphans: call wait instead, once.
func Begin(cmd *exec.Cmd) (wait func() error, err error) {
	if err := orphans.start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return func() error { return orphans.wait(cmd) }, nil
}

// Output runs a command of the system and returns what it printed. The command
// is killed after the timeout.
func Output(timeout time.Duration, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := orphans.start(cmd); err != nil {
		return "", fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	timer := time.AfterFunc(timeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := orphans.wait(cmd); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", cmd.Path, err, out.String())
	}
	return out.String(), nil
}
