package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// refused requires that a checkpoint of a process is refused, with the reasons,
// and that the tree goes on.
func (s *inside) refused(pid int, reasons ...string) {
	s.t.Helper()
	dir := workDir(s.t)
	for _, command := range [][]string{
		{"checkpoint", strconv.Itoa(pid), "-o", filepath.Join(dir, "image.firn")}, {"check", strconv.Itoa(pid)},
	} {
		res := want(s.t, harness.StatusRefused, firn(s.t), command...)
		for _, text := range reasons {
			if !strings.Contains(res.Stderr+res.Stdout, text) {
				s.t.Errorf("it does not say %q: %s", text, res)
			}
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		s.t.Errorf("%v was written: %v", left, err)
	}
	s.unharmed()
}

// TestPIDNamespaceRefused: what cannot be carried of PID namespaces is told, with
// what helps.
func TestPIDNamespaceRefused(t *testing.T) {
	t.Run("not the first process", func(t *testing.T) {
		s := startInside(t, 0, "--mount-proc")
		for _, p := range s.Tree() {
			if p.Parent == s.root && p.State != "Z" {
				s.refused(p.PID, "it is not the first process of its PID namespace",
					fmt.Sprintf("checkpoint process %d, and with it all of its namespace", s.root))
				break
			}
		}
	})
	t.Run("the creator", func(t *testing.T) {
		s := startInside(t, 0, "--mount-proc")
		s.refused(s.PID, "mnt namespace", fmt.Sprintf("checkpoint process %d, the first one of its PID namespace", s.root))
	})
	t.Run("below the root of a restored one", func(t *testing.T) {
		s := &inside{subject: startC(t, "levels", "0")}
		s.root = s.PID
		s.save(s.PID)
		s.Forget()
		s.bring("--new-pid-namespace")
		for _, p := range s.Tree() {
			if p.Parent == s.root && p.State != "Z" {
				s.refused(p.PID, "it is not the root of the tree that was restored into its PID namespace",
					fmt.Sprintf("checkpoint process %d", s.root))
				break
			}
		}
	})
	t.Run("somebody from outside", func(t *testing.T) {
		s := startInside(t, 0, "--mount-proc")
		cmd := beside(t, "nsenter", "-t", strconv.Itoa(s.root), "-p", "sleep", "1000")
		// nsenter forks: what it executes is in the namespace.
		stranger := 0
		for stranger == 0 {
			kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
			if err != nil {
				t.Fatal(err)
			}
			stranger, _ = strconv.Atoi(strings.TrimSpace(string(kids)))
		}
		defer func() {
			if p, err := os.FindProcess(stranger); err == nil {
				_ = p.Kill()
			}
		}()
		s.refused(s.root, fmt.Sprintf("process %d", stranger), "has entered it, and is not in the tree", "end that one first")
	})
	t.Run("other mounts", func(t *testing.T) {
		dir := workDir(t)
		s := startInside(t, 0, "--mount-proc", program(t, "sh"), "-c",
			`mount -t tmpfs none "$0" && exec "$@"`, dir, program(t, "unshare"), "-m")
		s.refused(s.root, "mnt namespace", "differs from firn's by more than the tree's own /proc", dir+" (tmpfs) is mounted")
	})
}
