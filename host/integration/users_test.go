package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// startUsers starts the subject "users" with some threads in a user namespace.
func startUsers(t *testing.T, threads int) *subject {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	gate.Cap(t, unix.CAP_SETUID)
	gate.Cap(t, unix.CAP_SYS_NICE)
	return startC(t, "users", strconv.Itoa(threads))
}

// finishUsers ends the subject, which reaps all of its processes.
func (s *subject) finishUsers() {
	s.t.Helper()
	s.ask("finish")
	s.line("finished")
	s.last()
}

// TestUserNamespaces: maps, owners, nested ones, members with and without numbers
// inside, their threads with rights of their own, and UTS and IPC namespaces that
// belong to them.
func TestUserNamespaces(t *testing.T) {
	s := startUsers(t, 3)
	s.survives()
	s.finishUsers()
}

// TestUserNamespacesInside: the same where the tree gets a PID namespace of its
// own, in which threads' numbers are counted apart.
func TestUserNamespacesInside(t *testing.T) {
	s := startUsers(t, 3)
	s.pause()
	copied := s.restoreCopy()
	copied.moves()
	s.finishUsers()
	copied.gone()
}

// TestUserNamespaceOnBusyMachine: threads in a user namespace get their numbers
// although others take numbers all the time.
func TestUserNamespaceOnBusyMachine(t *testing.T) {
	s := startUsers(t, 40)
	beside(t, "sh", "-c", "while :; do /bin/true; done")
	s.checkpoint()
	// Somebody else may have taken a number for a moment; that is told before
	// anything is created.
	s.restoreRetried()
	s.unharmed()
	s.finishUsers()
}

// restoreRetried is restore for a machine on which numbers are taken and given
// back all the time.
func (s *subject) restoreRetried() {
	s.t.Helper()
	for range 20 {
		res, err := firn(s.t).Run("restore", "-d", s.image)
		if err != nil {
			s.t.Fatal(err)
		}
		if res.Status == harness.StatusDone {
			s.Forget()
			return
		}
		if !strings.Contains(res.Stderr, "number is") {
			s.t.Fatal(res)
		}
	}
	s.t.Fatal("numbers of the tree were in use 20 times")
}

// TestUserNamespaceRefused: what cannot be carried of user namespaces is told.
func TestUserNamespaceRefused(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	for name, c := range map[string]struct{ args, words []string }{
		"without a process": {[]string{"-Ur", program(t, "unshare"), "-Ur"},
			[]string{"user namespace", "no process of the tree lives in it"}},
		"with a PID namespace": {[]string{"-Urpf"},
			[]string{"pid namespace", "belongs to a user namespace of the tree", "make it outside of the user namespace"}},
		"with a mount namespace": {[]string{"-Urm"}, []string{"mnt namespace"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, harness.Spec{Path: program(t, "unshare"), Args: append(c.args, cSubject(t, "tick"))})
			s.ready()
			text := strings.Join(s.refused(), "\n")
			for _, w := range c.words {
				if !strings.Contains(text, w) {
					t.Errorf("it does not say %q: %s", w, text)
				}
			}
		})
	}
}

// TestUserNamespaceInterpreter: a program as people start it in one, with pipes
// between it and a child that it starts after the restore.
func TestUserNamespaceInterpreter(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	s := start(t, harness.Spec{Path: program(t, "unshare"), Args: []string{"-Ur", program(t, "python3"), script(t, "counter.py")}})
	s.ready()
	before := userMaps(t, s.PID)
	for range 2 {
		s.cycle()
		s.unharmed()
	}
	if now := userMaps(t, s.PID); now != before {
		t.Errorf("maps are %q, were %q", now, before)
	}
}

func userMaps(t *testing.T, pid int) string {
	t.Helper()
	var all string
	for _, name := range []string{"uid_map", "gid_map", "setgroups"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			t.Fatal(err)
		}
		all += string(b)
	}
	return all
}
