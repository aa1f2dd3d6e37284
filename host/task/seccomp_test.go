package task

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

func TestSeccompMode(t *testing.T) {
	for text, want := range map[string]int{
		"Name:\tx\nState:\tS\n": 0,
		"Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n": 2,
		"Name:\tSeccomp:\t2\nSeccomp:\t1\n":                            1,
		"Name:\tx\nSeccomp:\t0":                                        0,
	} {
		if got, err := seccompMode([]byte(text)); err != nil || got != want {
			t.Errorf("%q: mode %d, %v; want %d", text, got, err, want)
		}
	}
	if _, err := seccompMode([]byte("Name:\tx\nSeccomp:\tyes\n")); !errors.Is(err, sdk.ErrCorrupt) {
		t.Errorf("a word for a mode: %v", err)
	}
}

// filteredTape makes calls that the filter of the subject would end it for, or
// refuse.
func filteredTape(t *testing.T, f *Frozen, pid HostPID, parent int) {
	t.Helper()
	infos, err := f.Trace(t.Context(), []int{int(pid)})
	if err != nil || len(infos) != 1 || len(infos[0].SeccompFilters) != 1 || len(infos[0].SeccompFilters[0].Program) != 6*sockFilterSize {
		t.Fatalf("filters %+v, %v", infos, err)
	}
	tp := &tape.Tape{}
	timer := tp.Buffer(32)
	tp.Call(unix.SYS_GETITIMER, tape.Imm(unix.ITIMER_REAL), timer.Arg())
	tp.Call(unix.SYS_GETPPID)
	out, err := f.RunTapes(t.Context(), []tape.Run{{TID: int(pid), Tape: tp}})
	if err != nil || out[0].Err != nil || len(out[0].Results) != 2 || int(out[0].Results[1]) != parent {
		t.Fatalf("tape: %v, %+v", err, out)
	}
}

// stillFiltered requires that the filter refuses, and at last that it ends the
// subject.
func stillFiltered(t *testing.T, s *subject) {
	t.Helper()
	s.goesOn(t)
	if err := s.cmd.Process.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = s.cmd.Process.Wait()
	}()
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			break
		}
		if line != "ok\n" {
			t.Fatal(line)
		}
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the subject lives on")
	}
}

// TestSeccompAfterThaw: injected calls are not filtered, those of the program
// are before and after.
func TestSeccompAfterThaw(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	tr := newTracer(t)
	s := startSubject(t, buildSubject(t, "filtered"))
	for range 30 {
		f := freeze(t, tr, s.pid())
		filteredTape(t, f, s.pid(), os.Getpid())
		if err := f.Thaw(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.goesOn(t)
	}
	stillFiltered(t, s)
}

// hostOf is the variable that makes TestSeccompHost a host for a process.
const hostOf = "FIRN_TEST_HOST_OF"

// TestSeccompHost is no test of its own but the host that TestSeccompWithoutHost
// kills.
func TestSeccompHost(t *testing.T) {
	pid, err := strconv.Atoi(os.Getenv(hostOf))
	if err != nil {
		return
	}
	f := freeze(t, newTracer(t), HostPID(pid))
	filteredTape(t, f, HostPID(pid), os.Getppid())
	fmt.Println("frozen")
	time.Sleep(time.Minute)
}

// TestSeccompWithoutHost: the filter is in force again when the host is killed
// by SIGKILL.
func TestSeccompWithoutHost(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	s := startSubject(t, buildSubject(t, "filtered"))
	for range 10 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestSeccompHost$", "-test.timeout", "20s")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", hostOf, s.pid()))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		st, _ := procfs.Status(int(s.pid()))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err != nil || line != "frozen\n" || st.TracerPid == 0 {
			t.Fatalf("host: %q, %v; tracer %d", line, err, st.TracerPid)
		}
		s.goesOn(t)
	}
	stillFiltered(t, s)
}
