package integration

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// finishThreads joins threads that are older than the checkpoint.
func finishThreads(s *subject) {
	s.t.Helper()
	s.ask("finish")
	s.line("finished")
	s.last()
}

// TestThreads: a program with POSIX threads goes on with the same thread ids.
func TestThreads(t *testing.T) {
	s := startC(t, "threads")
	s.cycle()
	s.unharmed()
	finishThreads(s)
}

// TestManyTasks: 500 processes, and 1,000 threads, come back and answer.
func TestManyTasks(t *testing.T) {
	for _, kind := range [][]string{{"processes", "500"}, {"threads", "1000"}} {
		t.Run(kind[0], func(t *testing.T) {
			s := startC(t, "many", kind...)
			for range 2 {
				s.cycle()
				s.unharmed()
			}
		})
	}
}

// TestGoProgram: goroutines, tickers, the collector and the network poller go
// on, and the listening sockets accept connections.
func TestGoProgram(t *testing.T) {
	s := startGo(t, "gorun")
	for range 3 {
		s.cycle()
		s.unharmed()
		greet(t, s)
	}
}

// greet connects to the program's listeners.
func greet(t *testing.T, s *subject) {
	t.Helper()
	for _, network := range []string{"tcp", "unix"} {
		address := strings.TrimPrefix(s.line("listening "+network), "listening "+network+" ")
		if network == "unix" {
			address = s.Path(address)
		}
		answers(t, network, address, fmt.Sprintf("greetings from %d\n", s.PID))
	}
}

// answers connects, or sends a datagram, and requires an answer.
func answers(t *testing.T, network, address, want string) {
	t.Helper()
	c, err := net.DialTimeout(network, address, grace)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(grace))
	if network == "udp" {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
	}
	got := make([]byte, 100)
	n, err := c.Read(got)
	if err != nil || string(got[:n]) != want {
		t.Errorf("%s %s answers %q, want %q: %v", network, address, got[:n], want, err)
	}
}

// TestWaits: threads that wait in system calls go on waiting.
func TestWaits(t *testing.T) {
	s := startC(t, "waits")
	for range 3 {
		s.checkpoint("--leave-running")
		s.ticks(1)
	}
	s.cycle()
	s.unharmed()
}

// TestWaitsForChildren: children that end, before the checkpoint or after the
// restore, are reaped with their statuses by threads that wait for them.
func TestWaitsForChildren(t *testing.T) {
	s := startC(t, "waits", "children")
	for range 5 {
		s.checkpoint()
		s.restore()
		s.ticks(3)
	}
}

// TestWatchpoint: what a debugger has left in the debug registers of one thread
// stays armed there, and only there.
func TestWatchpoint(t *testing.T) {
	onlyAMD64(t)
	s := startC(t, "watchpoint")
	s.survives()
	s.ask("look")
	s.line("looked")
	s.ticks(2)
}

// TestRegisters: every register, x87 to AVX-512, is held across checkpoints.
func TestRegisters(t *testing.T) {
	onlyAMD64(t)
	s := startC(t, "registers")
	for range 5 {
		s.checkpoint("--leave-running")
		s.unharmed()
	}
	for range 3 {
		s.cycle()
		s.unharmed()
	}
}
