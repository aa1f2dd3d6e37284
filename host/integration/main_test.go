package integration

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// workspace holds the built programs; it is removed at the end.
var workspace string

func TestMain(m *testing.M) {
	status, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		status = 1
	}
	os.Exit(status)
}

func runAll(m *testing.M) (status int, err error) {
	if workspace, err = os.MkdirTemp("", "firn-integration-"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(workspace)) }()
	if err := os.Chmod(workspace, 0o755); err != nil {
		return 1, err
	}
	if err := harness.Adopt(); err != nil {
		return 1, err
	}
	status = m.Run()
	if left := harness.Executing(workspace + "/bin"); len(left) > 0 {
		return 1, fmt.Errorf("firn or plugins still run: %v", left)
	}
	return status, nil
}

// programs builds firn and the plugins once, when the first test needs them.
var programs = sync.OnceValues(func() (*harness.Programs, error) { return harness.Build(workspace) })

// subjects compiles subjects without building firn.
var subjects = sync.OnceValues(func() (*harness.Programs, error) { return harness.Subjects(workspace) })

// needs skips the test where a checkpoint is not possible at all.
func needs(t *testing.T) {
	t.Helper()
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	gate.Cap(t, unix.CAP_SYS_ADMIN)
}

// firn returns the built program.
func firn(t *testing.T) harness.Firn {
	t.Helper()
	needs(t)
	p, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return harness.Firn{Path: p.Firn}
}

// run runs firn and requires that nothing of it stays behind.
func run(t *testing.T, f harness.Firn, args ...string) harness.Result {
	t.Helper()
	res, err := f.Run(args...)
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.WaitSession(res.PID, grace); err != nil {
		t.Errorf("%v\n%s", err, res)
	}
	return res
}

// want runs firn and requires an exit status.
func want(t *testing.T, status int, f harness.Firn, args ...string) harness.Result {
	t.Helper()
	res := run(t, f, args...)
	if res.Status != status {
		t.Fatalf("want status %d: %s", status, res)
	}
	return res
}
