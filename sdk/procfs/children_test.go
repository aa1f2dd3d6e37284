package procfs

import (
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestParseChildren(t *testing.T) {
	for text, want := range map[string][]int{"": nil, "12 345 ": {12, 345}} {
		if got, err := ParseChildren([]byte(text)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	for _, bad := range []string{"x", "1 -2 ", "1,2", "99999999999999999999"} {
		if got, err := ParseChildren([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestChildrenOfSelf(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	tids, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range tids {
		tid, ok := parsePositive([]byte(e.Name()))
		if !ok {
			t.Fatalf("thread %q", e.Name())
		}
		kids, err := Children(os.Getpid(), tid)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(kids, cmd.Process.Pid) {
			return
		}
	}
	t.Errorf("no thread has child %d", cmd.Process.Pid)
}
