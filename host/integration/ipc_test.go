package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func finishIPC(s *subject) {
	s.t.Helper()
	s.ask("drain")
	s.line("drained")
	s.last()
}

// TestIPCNamespace: two processes in an IPC namespace of their own keep shared
// memory in every state, messages, semaphores, POSIX queues and limits.
func TestIPCNamespace(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	s := startC(t, "ipc")
	s.survives()
	finishIPC(s)
}

// TestIPCNamespaceBeside: a copy of the tree, in a PID namespace, in which
// tasks are called by other numbers, is not in the way of the original.
func TestIPCNamespaceBeside(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	s := startC(t, "ipc")
	s.pause()
	r := s.restoreCopy()
	r.moves()
	r.end()
	s.resume()
	s.unharmed()
	finishIPC(s)
}

// TestIPCRefused: what of System V and POSIX objects cannot be carried is named.
func TestIPCRefused(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	for what, words := range map[string][]string{
		"alone":   {"SEM_UNDO", "apart from its process"},
		"long":    {"message queue 0", "kernel.msgmax"},
		"machine": {"System V", "unshare --ipc"},
		"message": {"/firn-subject", "holds 1 messages"},
		"notify":  {"/firn-subject", "notifies task"},
		"moved":   {"shared memory", "another IPC namespace"},
	} {
		t.Run(what, func(t *testing.T) {
			lines := strings.Join(startC(t, "ipc", what).refused(), "\n")
			for _, w := range words {
				if !strings.Contains(lines, w) {
					t.Errorf("%q is not in the report:\n%s", w, lines)
				}
			}
		})
	}
}

// TestSemaphoreOfTheMachine: what the end of the tree would change is named, and
// the question has changed nothing.
func TestSemaphoreOfTheMachine(t *testing.T) {
	s := startC(t, "ipc", "undo")
	lines := strings.Join(s.refused(), "\n")
	if !strings.Contains(lines, "changes by -1 when the task ends (SEM_UNDO)") {
		t.Errorf("report:\n%s", lines)
	}
	s.ask("drain")
	s.last()
}

// TestSemaphoreAdjustments: what the kernel takes back when processes end
// (SEM_UNDO) is the same for the restored ones, over the whole range.
func TestSemaphoreAdjustments(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	s := startC(t, "undo")
	s.checkpoint("--leave-running")
	s.unharmed()
	s.cycle()
	s.unharmed()
	s.cycle()
	s.ask("end")
	s.line("undone")
	s.last()
}

// TestPOSIXQueueOfTheMachine: one that lies in the namespace of firn itself is
// opened again by its name, and missed if it is gone.
func TestPOSIXQueueOfTheMachine(t *testing.T) {
	name := fmt.Sprintf("firn-test-%d", os.Getpid())
	unlink := func() error {
		b := append([]byte(name), 0)
		_, _, errno := unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(&b[0])), 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	t.Cleanup(func() { _ = unlink() })
	s := startC(t, "ipc", "queue", "/"+name)
	s.cycle()
	s.unharmed()
	s.checkpoint()
	if err := unlink(); err != nil {
		t.Fatal(err)
	}
	res := want(t, harness.StatusFailed, firn(t), "restore", "-d", s.image)
	if !strings.Contains(res.Stderr, "/"+name) {
		t.Errorf("report:\n%s", res.Stderr)
	}
}

// TestIPCShared: a namespace in which others live as well cannot be carried, for
// they would not see what the restored tree does.
func TestIPCShared(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	s := startC(t, "ipc")
	var child int
	for _, p := range s.Tree() {
		if p.PID != s.PID {
			child = p.PID
		}
	}
	if child == 0 {
		t.Fatal("the subject has no child")
	}
	part := &subject{Subject: s.Subject, t: t, image: s.image}
	res := want(t, harness.StatusRefused, firn(t), "checkpoint", strconv.Itoa(child), "-o", s.image)
	if !strings.Contains(res.Stderr, "outside of the tree") {
		t.Errorf("report:\n%s", res.Stderr)
	}
	part.unharmed()
	// A restored namespace is not the one of the test, and goes with its tree.
	s.cycle()
	now, err := os.Readlink("/proc/" + strconv.Itoa(s.PID) + "/ns/ipc")
	if err != nil {
		t.Fatal(err)
	}
	if own, err := os.Readlink("/proc/self/ns/ipc"); err != nil || own == now {
		t.Errorf("the restored program is in namespace %s: %v", now, err)
	}
	if err := syscall.Kill(s.PID, 0); err != nil {
		t.Error(err)
	}
}
