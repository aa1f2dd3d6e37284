package dispatch

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// hostMain is a host that is killed: it starts plugins, tells their PIDs and
// waits.
func hostMain(dir string) {
	bins, err := Discover([]string{dir})
	if err != nil {
		panic(err)
	}
	set, err := Start(context.Background(), bins, Options{RuntimeDir: dir, Arena: &ArenaOptions{}})
	if err != nil {
		panic(err)
	}
	for _, p := range set.Plugins() {
		fmt.Println(p.PID())
	}
	fmt.Println("ready")
	select {}
}

func TestKilledHostLeavesNothing(t *testing.T) {
	bins := install(t, "one", "two", "three")
	rt := filepath.Dir(bins[0].Path)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, lifelineOnly := range []bool{false, true} {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "FIRN_TEST_HOST="+rt)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pids []int
		eachLineUntil(out, "ready", func(line string) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				t.Errorf("host says %q", line)
				return
			}
			pids = append(pids, pid)
			if !alive(pid) {
				t.Errorf("plugin %d does not run", pid)
			}
			// A stopped plugin cannot read its lifeline: the signal ends it.
			if !lifelineOnly && len(pids) == 1 {
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
		})
		if len(pids) != 3 {
			t.Errorf("plugins %v", pids)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, pid := range pids {
			gone(t, pid)
		}
		noSockets(t, rt)
	}
}

// eachLineUntil calls f for every line before the last one.
func eachLineUntil(r interface{ Read([]byte) (int, error) }, last string, f func(string)) {
	var line []byte
	b := make([]byte, 1)
	for {
		if n, err := r.Read(b); n == 0 || err != nil {
			return
		}
		if b[0] != '\n' {
			line = append(line, b[0])
			continue
		}
		if string(line) == last {
			return
		}
		f(string(line))
		line = nil
	}
}
