package integration

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// soak is how many times longer than usual the long tests run.
func soak() int {
	n, err := strconv.Atoi(os.Getenv("FIRN_TEST_SOAK"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// onlyAMD64 skips subjects that are written in its assembly.
func onlyAMD64(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the subject is amd64 assembly")
	}
}

// differences compares what a subject wrote before and after, line by line.
func differences(t *testing.T, s *subject) []string {
	t.Helper()
	before, err := s.Lines("before")
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.Lines("after")
	if err != nil {
		t.Fatal(err)
	}
	if len(before) == 0 {
		t.Fatal("nothing was written before")
	}
	var found []string
	for i := range max(len(before), len(after)) {
		var b, a string
		if i < len(before) {
			b = before[i]
		}
		if i < len(after) {
			a = after[i]
		}
		if a != b {
			found = append(found, fmt.Sprintf("%q, was %q", a, b))
		}
	}
	return found
}

func same(t *testing.T, s *subject) {
	t.Helper()
	for i, d := range differences(t, s) {
		if i == 20 {
			t.Error("and more")
			break
		}
		t.Error(d)
	}
	s.last()
}

func finishTaskState(t *testing.T, s *subject) {
	t.Helper()
	s.ask("dump")
	s.line("dumped")
	same(t, s)
}

// TestTaskState compares signal actions, masks, stacks, timers, limits,
// credentials, scheduling, pending signals and all the rest of a task's state.
func TestTaskState(t *testing.T) {
	for _, user := range []string{"root", "nobody"} {
		t.Run(user, func(t *testing.T) {
			gate.Cap(t, unix.CAP_SETUID)
			gate.Cap(t, unix.CAP_SYS_NICE)
			s := startC(t, "taskstate", user)
			s.cycle()
			s.unharmed()
			s.cycle()
			s.unharmed()
			finishTaskState(t, s)
		})
	}
}

// TestPolicies: threads of every scheduling policy, and a login uid.
func TestPolicies(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_NICE)
	gate.Cap(t, unix.CAP_AUDIT_CONTROL)
	s := startC(t, "policies")
	s.survives()
}

// TestTaskStateLeaveRunning: a checkpoint leaves no trace in the tasks.
func TestTaskStateLeaveRunning(t *testing.T) {
	s := startC(t, "taskstate", "nobody")
	for range 5 {
		s.checkpoint("--leave-running")
	}
	s.unharmed()
	finishTaskState(t, s)
}

func finishMemory(t *testing.T, s *subject) {
	t.Helper()
	s.ask("dump")
	s.line("dumped")
	same(t, s)
}

// TestMemory compares every kind of memory by content, flags and behavior.
func TestMemory(t *testing.T) {
	for _, mode := range []string{"direct", "deferred"} {
		t.Run(mode, func(t *testing.T) {
			s := startC(t, "memory")
			args := map[string][]string{"deferred": {"--deferred"}}[mode]
			s.checkpoint("--leave-running")
			s.unharmed()
			shape := s.shape()
			c := s.checkpoint(args...)
			s.restore()
			s.unharmed()
			if now := s.shape(); fmt.Sprint(now) != fmt.Sprint(shape) {
				t.Errorf("processes are %v, were %v", now, shape)
			}
			// 4 GiB are mapped; two processes with some 12 MiB are in use.
			if c.BytesImage > 64<<20 {
				t.Errorf("the image has %d bytes: are pages stored that were never touched?", c.BytesImage)
			}
			s.cycle()
			s.unharmed()
			finishMemory(t, s)
		})
	}
}

func finishQueues(s *subject) {
	s.t.Helper()
	s.ask("drain")
	s.line("drained")
	s.last()
}

// TestQueues: data in pipes, socket pairs and event counters, epoll sets,
// files, and what a child shares of them.
func TestQueues(t *testing.T) {
	s := startC(t, "queues")
	s.survives()
	finishQueues(s)
}

// TestEvents: timers, signals that are read from files.
func TestEvents(t *testing.T) {
	s := startC(t, "events")
	s.checkpoint("--leave-running")
	s.cycle()
	s.unharmed()
	finishQueues(s)
}

// TestWatchers: inotify and fanotify go on reporting what they did.
func TestWatchers(t *testing.T) {
	s := startC(t, "watchers")
	s.survives()
	finishQueues(s)
}

// TestPidfds: pidfds refer to the restored tasks, and to those that were reaped.
func TestPidfds(t *testing.T) {
	s := startC(t, "pidfds")
	s.checkpoint("--leave-running")
	for range 2 {
		s.cycle()
		s.unharmed()
	}
	finishQueues(s)
}

// TestPidfdOutside: a pidfd of a process outside the tree is refused by name.
func TestPidfdOutside(t *testing.T) {
	s := startC(t, "pidfds", "outside")
	var fd int
	if _, err := fmt.Sscanf(s.line("outside"), "outside %d", &fd); err != nil {
		t.Fatal(err)
	}
	names(t, s.refused(), s.PID, blocker{fd, "pidfd"})
}

// TestNamespaceFiles: files of namespaces are of those in which the program is
// after the restore.
func TestNamespaceFiles(t *testing.T) {
	s := startC(t, "namespaces")
	s.checkpoint("--leave-running")
	for range 2 {
		s.cycle()
		s.unharmed()
	}
	finishQueues(s)
}

// TestGhosts: files without a name, and a current directory without one.
func TestGhosts(t *testing.T) {
	s := startC(t, "ghosts")
	s.checkpoint("--leave-running")
	for range 2 {
		s.cycle()
		s.unharmed()
	}
	finishQueues(s)
}

// TestLinkRemap: a file with another name that nobody knows is refused, with
// the flag that helps, and carried with it. Nothing stays behind.
func TestLinkRemap(t *testing.T) {
	s := startC(t, "ghosts", "hidden")
	if lines := strings.Join(s.refused(), "\n"); !strings.Contains(lines, "/linked (deleted)") || !strings.Contains(lines, "--link-remap") {
		t.Errorf("the report does not name the file and the flag:\n%s", lines)
	}
	for range 2 {
		s.checkpoint("--link-remap")
		s.restore()
		s.unharmed()
	}
	finishQueues(s)
	left, err := filepath.Glob(s.Path(".firn*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestLocks: locks are carried with --file-locks, and named without it.
func TestLocks(t *testing.T) {
	s := startC(t, "events", "locks")
	lines := strings.Join(s.refused(), "\n")
	for _, word := range []string{"/locked", "/flocked", "/leased", "--file-locks"} {
		if !strings.Contains(lines, word) {
			t.Errorf("%q is not in the report:\n%s", word, lines)
		}
	}
	for range 2 {
		s.checkpoint("--file-locks")
		s.restore()
		s.unharmed()
	}
	finishQueues(s)
}

func finishListeners(t *testing.T, s *subject) {
	t.Helper()
	lines, err := s.Log()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		var port int
		var kind string
		if _, err := fmt.Sscanf(line, "port %d %s", &port, &kind); err != nil {
			continue
		}
		host, network := "127.0.0.1", kind[:3]
		if strings.HasSuffix(kind, "6") {
			host = "::1"
		}
		answers(t, network, net.JoinHostPort(host, strconv.Itoa(port)), fmt.Sprintf("greetings from %d\n", s.PID))
	}
	s.ask("dump")
	s.line("dumped")
	same(t, s)
}

// TestListeners: sockets without a peer keep their ports and options.
func TestListeners(t *testing.T) {
	s := startC(t, "listeners")
	s.checkpoint("--leave-running")
	s.cycle()
	s.unharmed()
	finishListeners(t, s)
}

// TestKernelLog: a reader of /dev/kmsg reads every message once, also those that
// are logged while the tree is an image.
func TestKernelLog(t *testing.T) {
	gate.Cap(t, unix.CAP_SYSLOG)
	s := startC(t, "kmsg")
	s.checkpoint("--leave-running")
	s.unharmed()
	s.checkpoint()
	if err := os.WriteFile("/dev/kmsg", []byte("firn: a message of its test\n"), 0); err != nil {
		t.Fatal(err)
	}
	s.restore()
	s.unharmed()
	s.ask("drain")
	s.line("drained")
	s.last()
}

// TestUTSNamespace: two processes in a UTS namespace of their own keep its host
// name.
func TestUTSNamespace(t *testing.T) {
	needs(t)
	const script = `hostname firn-subject-host; exec "$0" -c '
import os, time
log = open("log", "a", buffering=1)
child = os.fork()
if child: log.write("ready\n")
n = 0
while True:
    if os.uname().nodename != "firn-subject-host": log.write("bad: host name %s\n" % os.uname().nodename)
    if child: log.write("tick %d\n" % n)
    n += 1
    time.sleep(0.01)
'`
	s := start(t, harness.Spec{
		Path: program(t, "unshare"),
		Args: []string{"--uts", program(t, "bash"), "-c", script, program(t, "python3")},
	})
	s.ready()
	own, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	s.cycle()
	s.unharmed()
	s.pause()
	r := s.restoreCopy() // in which tasks call each other by other numbers
	r.moves()
	r.end()
	s.resume()
	s.unharmed()
	link := filepath.Join("/proc", strconv.Itoa(s.PID), "ns/uts")
	if now, err := os.Readlink(link); err != nil || now == own {
		t.Errorf("the restored program is in namespace %q, the test in %q: %v", now, own, err)
	}
	name, err := os.Hostname()
	if err != nil || name == "firn-subject-host" {
		t.Errorf("the machine's host name is %q: %v", name, err)
	}
}

// stopped requires that every task is stopped by a signal and traced by nobody.
func (s *subject) stopped() {
	s.t.Helper()
	deadline := time.Now().Add(grace)
	for {
		wrong := ""
		for _, p := range s.Tree() {
			if p.State != "T" {
				wrong = fmt.Sprintf("process %d is %s, want stopped", p.PID, p.State)
			}
		}
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal(wrong)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// resume lets a stopped tree go on.
func (s *subject) resume() {
	s.t.Helper()
	for _, pid := range s.pids() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			s.t.Fatal(err)
		}
	}
}
