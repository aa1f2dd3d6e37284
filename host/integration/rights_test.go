package integration

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// TestWorkers: a master of root's with workers of another user that have given
// up their rights and lowered their limits.
func TestWorkers(t *testing.T) {
	gate.Cap(t, unix.CAP_SETUID)
	gate.Cap(t, unix.CAP_SETGID)
	s := startC(t, "workers")
	s.survives()
}

// asNobody is a command that executes its arguments as an ordinary user with
// some capabilities.
func asNobody(t *testing.T, capabilities ...string) []string {
	t.Helper()
	caps := "-all"
	if len(capabilities) > 0 {
		caps = "-all,+" + strings.Join(capabilities, ",+")
	}
	return []string{program(t, "setpriv"), "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"--inh-caps", caps, "--ambient-caps", caps, "--"}
}

// firnOfNobody is firn as that user runs it.
func firnOfNobody(t *testing.T, capabilities ...string) harness.Firn {
	t.Helper()
	f := firn(t)
	f.Prefix, f.Env = asNobody(t, capabilities...), []string{"HOME=/"}
	return f
}

// startNobody starts a subject of that user, in a directory of its own, with an
// image there as well.
func startNobody(t *testing.T, name string) *subject {
	t.Helper()
	for _, c := range []int{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_CHECKPOINT_RESTORE, unix.CAP_SYS_PTRACE} {
		gate.Cap(t, c)
	}
	program := cSubject(t, name)
	dir := workDir(t)
	if err := os.WriteFile(dir+"/out", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, dir + "/out"} {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	argv := append(asNobody(t), program)
	s := start(t, harness.Spec{Path: argv[0], Args: argv[1:], Dir: dir})
	s.ready()
	image := workDir(t)
	if err := os.Chown(image, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	s.image = image + "/image.firn"
	return s
}

// TestUnprivileged: an ordinary user with two capabilities can checkpoint and
// restore programs of his own; CAP_CHECKPOINT_RESTORE alone is enough for it.
func TestUnprivileged(t *testing.T) {
	for _, caps := range [][]string{{"checkpoint_restore", "sys_ptrace"}, {"checkpoint_restore"}} {
		t.Run(strings.Join(caps, " "), func(t *testing.T) {
			s, f := startNobody(t, "threads"), firnOfNobody(t, caps...)
			want(t, harness.StatusDone, f, "checkpoint", strconv.Itoa(s.PID), "-o", s.image, "--leave-running")
			s.unharmed()
			for range 2 {
				want(t, harness.StatusDone, f, "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
				s.Forget()
				// The clocks go on only in a time namespace, for which there is no right.
				res := want(t, harness.StatusFailed, f, "restore", "-d", s.image)
				contains(t, res, res.Stderr, "CAP_SYS_ADMIN", "--host-clocks")
				want(t, harness.StatusDone, f, "restore", "-d", "--host-clocks", s.image)
				s.unharmed()
			}
		})
	}
}

// TestUnprivilegedRefused: what is missing is named in one line, beforehand.
func TestUnprivilegedRefused(t *testing.T) {
	s := startNobody(t, "tick")
	for _, caps := range [][]string{nil, {"sys_ptrace"}} {
		f := firnOfNobody(t, caps...)
		res := want(t, harness.StatusRights, f, "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
		contains(t, res, res.Stderr, "CAP_CHECKPOINT_RESTORE")
		if n := strings.Count(res.Stderr, "\n"); n != 1 {
			t.Errorf("%d lines: %s", n, res)
		}
		res = want(t, harness.StatusRefused, f, "check", strconv.Itoa(s.PID))
		contains(t, res, res.Stdout, "CAP_CHECKPOINT_RESTORE")
		s.unharmed()
	}
	want(t, harness.StatusDone, firnOfNobody(t, "checkpoint_restore"), "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	s.Forget()
	res := want(t, harness.StatusRights, firnOfNobody(t), "restore", "-d", "--host-clocks", s.image)
	contains(t, res, res.Stderr, "CAP_CHECKPOINT_RESTORE")
}
