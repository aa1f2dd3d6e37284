package task

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// TestUndo: a task that does not stop makes the freeze fail. The others are let go
// at once: nobody waits for it meanwhile.
func TestUndo(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	cmd := exec.Command(buildSubject(t, "vforked"))
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	root := cmd.Process.Pid
	t.Cleanup(func() {
		_ = unix.Kill(-root, unix.SIGKILL) // the whole session
		_ = cmd.Wait()
	})
	line := make([]byte, 32)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err != nil {
		t.Fatal(err)
	}
	tracer, err := NewTracer(hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := Freeze(ctx, tracer, Roots{Root: HostPID(root)}, nil)
		failed <- err
	}()
	<-ctx.Done()
	for traced(t, root) > 1 {
		select {
		case err := <-failed:
			t.Fatalf("others were traced until the freeze had failed: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	// Now it can stop, and be let go.
	if err := unix.Kill(child, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), strconv.Itoa(root)) {
		t.Errorf("the task that did not stop is not named: %v", err)
	}
	if n := traced(t, root); n > 0 {
		t.Errorf("%d processes are still traced", n)
	}
}

// traced counts the processes of a session that have a tracer.
func traced(t *testing.T, session int) (n int) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range list {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		if sid, err := unix.Getsid(pid); err != nil || sid != session {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil && !strings.Contains(string(status), "TracerPid:\t0\n") {
			n++
		}
	}
	return n
}
