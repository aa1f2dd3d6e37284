package harness

import (
	"bytes"
	"fmt"
	"os/exec"
	"time"
)

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
