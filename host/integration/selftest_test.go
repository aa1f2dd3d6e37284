package integration

import (
	"runtime"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestSubjectsDetectChange damages the subjects, each of which must notice: a
// subject that finds nothing proves nothing.
func TestSubjectsDetectChange(t *testing.T) {
	if err := harness.Adopt(); err != nil {
		t.Fatal(err)
	}
	damaged := map[string]func(t *testing.T) *subject{
		"threads":   func(t *testing.T) *subject { return startC(t, "threads") },
		"memory":    func(t *testing.T) *subject { return startC(t, "memory") },
		"tree":      func(t *testing.T) *subject { return startC(t, "tree") },
		"pidns":     func(t *testing.T) *subject { return startC(t, "pidns") },
		"waits":     func(t *testing.T) *subject { return startC(t, "waits") },
		"many":      func(t *testing.T) *subject { return startC(t, "many", "processes", "20") },
		"policies":  func(t *testing.T) *subject { return startC(t, "policies") },
		"relatives": func(t *testing.T) *subject { return startC(t, "relatives") },
		"layouts":   func(t *testing.T) *subject { return startC(t, "layouts", "low") },
		"packets":   func(t *testing.T) *subject { return startPackets(t) },
		"nameless":  func(t *testing.T) *subject { return startC(t, "nameless") },
		"uring":     func(t *testing.T) *subject { return startC(t, "uring") },
		"tick":      func(t *testing.T) *subject { return startC(t, "tick") },
		"seccomp":   func(t *testing.T) *subject { return startC(t, "seccomp") },
		"workers":   func(t *testing.T) *subject { return startC(t, "workers") },
		"ipc":       func(t *testing.T) *subject { return startC(t, "ipc") },
		"users":     func(t *testing.T) *subject { return startUsers(t, 3) },
		"undo":      func(t *testing.T) *subject { return startC(t, "undo") },
		"gorun":     func(t *testing.T) *subject { return startGo(t, "gorun") },
		"bpfmaps":   func(t *testing.T) *subject { return startMaps(t) },
		"networks":  func(t *testing.T) *subject { return startNetworks(t, "-n") },
	}
	if runtime.GOARCH == "amd64" {
		damaged["watchpoint"] = func(t *testing.T) *subject { return startC(t, "watchpoint") }
		damaged["registers"] = func(t *testing.T) *subject { return startC(t, "registers") }
	}
	for name, begin := range damaged {
		t.Run(name, func(t *testing.T) {
			s := begin(t)
			s.ask("break")
			s.line("bad")
		})
	}
	t.Run("queues", func(t *testing.T) {
		s := startC(t, "queues", "damaged")
		s.ask("drain")
		s.line("bad: stream")
	})
	t.Run("rights", func(t *testing.T) {
		s := startC(t, "rights", "damaged")
		s.ask("drain")
		s.line("bad: received from its own queue")
	})
	t.Run("ptys", func(t *testing.T) {
		s := startC(t, "ptys", "damaged")
		s.ask("drain")
		s.line("bad: raw input")
	})
	t.Run("watchers", func(t *testing.T) {
		s := startC(t, "watchers", "damaged")
		s.ask("drain")
		s.line("bad: modify")
	})
	t.Run("pidfds", func(t *testing.T) {
		s := startC(t, "pidfds", "damaged")
		s.ask("drain")
		s.line("bad: pidfd of a child")
	})
	t.Run("namespaces", func(t *testing.T) {
		s := startC(t, "namespaces", "damaged")
		s.ask("drain")
		s.line("bad: uts")
	})
	t.Run("ghosts", func(t *testing.T) {
		s := startC(t, "ghosts", "damaged")
		s.ask("drain")
		s.line("bad: deleted")
	})
	t.Run("carried", func(t *testing.T) {
		s := startC(t, "carried", "damaged")
		s.ask("drain")
		s.line("bad: data")
	})
	t.Run("taskstate", func(t *testing.T) {
		s := startC(t, "taskstate")
		s.ask("break")
		s.ticks(3)
		s.ask("dump")
		s.line("dumped")
		if d := differences(t, s); len(d) == 0 || !strings.Contains(d[0], "umask") {
			t.Errorf("a changed umask shows as %q", d)
		}
	})
	t.Run("events", func(t *testing.T) {
		s := startC(t, "events")
		s.ask("break")
		s.ask("drain")
		s.line("bad: timerfd")
	})
	t.Run("listeners", func(t *testing.T) {
		s := startC(t, "listeners")
		s.ask("break")
		s.ticks(3)
		s.ask("dump")
		s.line("dumped")
		if d := differences(t, s); len(d) == 0 || !strings.Contains(d[0], "keepalive") {
			t.Errorf("a changed option shows as %q", d)
		}
	})
	t.Run("counter", func(t *testing.T) {
		s := startCounter(t)
		s.ask("break")
		s.ticks(3)
		if err := consecutive(s, "log", "tick "); err == nil {
			t.Error("a gap in the numbers was not noticed")
		}
	})
}

// TestSubjectsAlone lets the subjects run without firn, to their end.
func TestSubjectsAlone(t *testing.T) {
	if err := harness.Adopt(); err != nil {
		t.Fatal(err)
	}
	t.Run("taskstate", func(t *testing.T) { finishTaskState(t, startC(t, "taskstate")) })
	t.Run("memory", func(t *testing.T) { finishMemory(t, startC(t, "memory")) })
	t.Run("queues", func(t *testing.T) { finishQueues(startC(t, "queues")) })
	t.Run("ptys", func(t *testing.T) { finishPtys(startC(t, "ptys")) })
	t.Run("tree", func(t *testing.T) { finishTree(t, startC(t, "tree")) })
	t.Run("threads", func(t *testing.T) { finishThreads(startC(t, "threads")) })
	t.Run("leaderless tree", func(t *testing.T) { finishTree(t, startC(t, "tree", "leaderless")) })
	t.Run("listeners", func(t *testing.T) { finishListeners(t, startC(t, "listeners")) })
	t.Run("events", func(t *testing.T) { finishQueues(startC(t, "events")) })
	t.Run("locks", func(t *testing.T) { finishQueues(startC(t, "events", "locks")) })
	t.Run("watchers", func(t *testing.T) { finishQueues(startC(t, "watchers")) })
	t.Run("pidfds", func(t *testing.T) { finishQueues(startC(t, "pidfds")) })
	t.Run("namespaces", func(t *testing.T) { finishQueues(startC(t, "namespaces")) })
	t.Run("ghosts", func(t *testing.T) { finishQueues(startC(t, "ghosts")) })
	t.Run("carried", func(t *testing.T) { finishQueues(startC(t, "carried")) })
	t.Run("ipc", func(t *testing.T) { finishIPC(startC(t, "ipc")) })
	t.Run("gorun", func(t *testing.T) { greet(t, startGo(t, "gorun")) })
}
